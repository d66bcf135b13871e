/** A file of the simulated disk: what is in the cache, and what of it the medium has. */
const SECTOR_BYTES = 512

export class Inode {
  cache = new Uint8Array(0)
  medium = new Uint8Array(0)
  /** Sectors that differ and will be written by the next sync. */
  readonly dirty = new Set<number>()
  sizeBytes = 0
  mediumSizeBytes = 0
  isSizeDirty = false

  resize(sizeBytes: number): void {
    if (sizeBytes > this.cache.length) {
      const larger = new Uint8Array(Math.max(sizeBytes, 2 * this.cache.length))
      larger.set(this.cache)
      this.cache = larger
    }
    if (sizeBytes < this.sizeBytes) {
      this.cache.fill(0, sizeBytes, this.sizeBytes)
      this.touch(sizeBytes, this.sizeBytes)
    }
    this.sizeBytes = sizeBytes
    this.isSizeDirty = true
  }

  touch(from: number, to: number): void {
    for (let sector = Math.floor(from / SECTOR_BYTES); sector * SECTOR_BYTES < to; sector++)
      this.dirty.add(sector)
  }

  write(offset: number, bytes: Uint8Array): void {
    if (offset + bytes.length > this.sizeBytes) this.resize(offset + bytes.length)
    this.cache.set(bytes, offset)
    this.touch(offset, offset + bytes.length)
  }

  writeBack(sector: number): void {
    const [from, to] = [sector * SECTOR_BYTES, Math.min(this.cache.length, (sector + 1) * SECTOR_BYTES)]
    if (to > this.medium.length) {
      const larger = new Uint8Array(this.cache.length)
      larger.set(this.medium)
      this.medium = larger
    }
    this.medium.set(this.cache.subarray(from, to), from)
  }

  sync(): void {
    for (const sector of this.dirty) this.writeBack(sector)
    this.dirty.clear()
    this.mediumSizeBytes = this.sizeBytes
    this.isSizeDirty = false
  }

  /** As the medium has it. */
  forget(): void {
    this.cache = this.medium.slice()
    this.sizeBytes = this.mediumSizeBytes
    if (this.cache.length < this.sizeBytes) {
      const larger = new Uint8Array(this.sizeBytes)
      larger.set(this.cache)
      this.cache = larger
    }
    this.cache.fill(0, this.sizeBytes)
    this.dirty.clear()
    this.isSizeDirty = false
  }
}
