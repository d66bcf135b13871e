// The memory backend keeps the contract.
import { describe } from 'vitest'
import { objectStoreContract } from '../contract.ts'
import { memoryObjectStore } from './store.ts'

describe('memory', () => objectStoreContract(async () => memoryObjectStore()))
