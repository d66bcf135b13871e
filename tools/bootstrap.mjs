#!/usr/bin/env node
/**
 * The way in: `node tools/bootstrap.mjs SCRIPT [ARGS]` installs what is missing, checks that npm's install
 * scripts ran, and runs SCRIPT under the Node 24 of node_modules. Plain Node 20 and `node:` imports only, because
 * nothing is installed yet when it starts.
 */
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, lstatSync, readFileSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..')
const nodeBinary = join(root, 'node_modules', 'node', 'bin', 'node')

function fail(line) {
  process.stderr.write(`understory: ${line}\n`)
  process.exit(1)
}

function checkPlatform() {
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    fail(
      `this is ${process.platform} ${process.arch}; Understory runs on Linux x64. Use a Linux machine or container.`,
    )
  }
  if (Number(process.versions.node.split('.')[0]) < 20) {
    fail(
      `this is Node ${process.versions.node}; Node 20 or newer is needed to begin. Install one and try again.`,
    )
  }
}

/** npm writes node_modules/.package-lock.json at the end of an install: missing or older means install again. */
function isInstalled() {
  const marker = join(root, 'node_modules', '.package-lock.json')
  return existsSync(marker) && statSync(marker).mtimeMs >= statSync(join(root, 'package-lock.json')).mtimeMs
}

function install() {
  process.stderr.write('understory: installing dependencies (npm install)\n')
  // Not `npm ci`: it refuses a lock file that lacks the optional packages of other platforms, which not every registry
  // carries. Without saving, what is locked is installed as locked, and no file of the project is touched.
  const { status, error } = spawnSync(
    'npm',
    ['install', '--no-save', '--no-audit', '--no-fund', '--loglevel=error'],
    {
      cwd: root,
      stdio: ['ignore', 2, 2],
    },
  )
  if (error !== undefined) fail(`could not run npm (${error.message}). Install npm and try again.`)
  if (status !== 0)
    fail(`npm install ended with exit code ${status}; its own message is above. Correct that and try again.`)
}

/** The package `node` places its binary, the Postgres packages their library links, by install scripts. */
function missingByScripts() {
  if (!existsSync(nodeBinary)) return 'node'
  for (const major of [16, 17, 18]) {
    const directory = join(root, 'node_modules', `postgres-${major}`)
    const list = join(directory, 'native', 'pg-symlinks.json')
    if (!existsSync(list)) continue
    const links = JSON.parse(readFileSync(list, 'utf8'))
    if (
      links.some(({ target }) => lstatSync(join(directory, target), { throwIfNoEntry: false }) === undefined)
    ) {
      return `postgres-${major}`
    }
  }
  return undefined
}

function checkInstallScripts() {
  const missing = missingByScripts()
  if (missing === undefined) return
  fail(
    `npm did not run the install script of the package "${missing}". ` +
      'Allow it (unset ignore-scripts, keep allowScripts of package.json), then run: npm rebuild',
  )
}

function run(script, args) {
  const child = spawn(nodeBinary, ['--disable-warning=ExperimentalWarning', join(root, script), ...args], {
    cwd: process.cwd(),
    stdio: 'inherit',
    env: { ...process.env, PATH: `${dirname(nodeBinary)}:${process.env.PATH}` },
  })
  // A terminal sends its signal to both; a supervisor only to this one, so it is passed on.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.on('error', (error) => fail(`could not start ${script} (${error.message})`))
  child.on('exit', (code, signal) =>
    process.exit(signal === null ? code : 128 + (signal === 'SIGINT' ? 2 : 15)),
  )
}

checkPlatform()
const [script, ...args] = process.argv.slice(2)
if (script === undefined) fail('which script? Use the npm scripts: npm start, npm run demo, npm test.')
if (!isInstalled()) install()
checkInstallScripts()
run(script, args)
