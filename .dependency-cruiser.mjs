/** Which room may know which (docs/architecture.md, "The house"). Tests keep to it too, but for their fixtures. */
const lib = (name) => `^libs/${name}/`
const TEST = '\\.test\\.ts$|/test/'
/** What the tests of a library may know beside what the library does. */
const FIXTURES = ['^testcontainers/', lib('simulation')]
const only = (room, allowed, comment) => {
  const name = `${room}-knows-only-its-own`
  const path = '^(libs|apps|testcontainers|bench|tools|test)/'
  const rooms = [room, ...allowed].map(lib)
  return [
    {
      name,
      comment,
      severity: 'error',
      from: { path: lib(room), pathNot: TEST },
      to: { path, pathNot: rooms.join('|') },
    },
    {
      name: `${name}-in-tests`,
      comment,
      severity: 'error',
      from: { path: `${lib(room)}.*(${TEST})` },
      to: { path, pathNot: [...rooms, ...FIXTURES].join('|') },
    },
  ]
}

export default {
  forbidden: [
    { name: 'no-circular', severity: 'error', from: {}, to: { circular: true } },
    {
      name: 'libs-never-import-apps',
      severity: 'error',
      from: { path: '^libs/' },
      to: { path: '^(apps|bench|tools|test)/' },
    },
    {
      name: 'products-never-import-fixtures',
      severity: 'error',
      from: { path: '^(libs|apps)/', pathNot: TEST },
      to: { path: '^testcontainers/' },
    },
    {
      name: 'apps-never-import-apps',
      comment: 'Apps talk to each other only through proto/.',
      severity: 'error',
      from: { path: '^apps/([^/]+)/' },
      to: { path: '^apps/', pathNot: '^apps/$1/' },
    },
    {
      name: 'nothing-imports-what-spans-the-apps',
      severity: 'error',
      from: { pathNot: '^test/' },
      to: { path: '^test/' },
    },
    {
      name: 'cluster-tests-see-no-app',
      comment: 'They start real processes, and speak to them as users do.',
      severity: 'error',
      from: { path: '^test/cluster/' },
      to: { path: '^apps/' },
    },
    ...only('base', [], 'base imports nothing'),
    ...only('env', ['base'], 'the seams know base alone'),
    ...only('actor', ['base', 'env'], 'owners of state; none lives here'),
    ...only('postgres', ['base'], 'facts about Postgres: no I/O, no clock, no network'),
    ...only(
      'consensus',
      ['base', 'env', 'postgres'],
      'pure state machines, and what drives them by the seams',
    ),
    {
      name: 'consensus-rules-stay-pure',
      comment: 'What drives them knows them; they know neither it nor the seams.',
      severity: 'error',
      from: { path: '^libs/consensus/src/(?!driver/)', pathNot: TEST },
      to: { path: '^libs/(env/|consensus/src/driver/)' },
    },
    ...only(
      'simulation',
      ['base', 'env', 'consensus'],
      'a world for pure rules and for code that keeps to the seams',
    ),
    ...only('storage', ['base', 'postgres'], 'pure where it can be'),
    ...only('rpc', ['base', 'env'], ''),
    ...only('protocol', ['base', 'consensus', 'postgres', 'rpc', 'storage'], 'between wire and domain, once'),
    ...only('object-store', ['base', 'env'], ''),
    ...only('broker', ['base', 'env', 'rpc'], ''),
    ...only(
      'service',
      ['base', 'broker', 'env', 'object-store', 'rpc', 'telemetry'],
      'the shell of a process: it knows no domain',
    ),
    ...only('telemetry', ['base', 'env'], 'what it observes hands itself in'),
    ...only(
      'sdk',
      ['base', 'protocol', 'rpc', 'storage'],
      'of the servers the public client has pages, keys and their shards alone',
    ),
    ...only('pgdata', ['base', 'env', 'postgres', 'protocol', 'rpc', 'storage'], ''),
    {
      name: 'grpc-js-in-rpc-alone',
      severity: 'error',
      from: { pathNot: '^libs/rpc/' },
      to: { path: 'node_modules/@grpc/' },
    },
    {
      name: 's3-client-in-object-store-alone',
      severity: 'error',
      from: { pathNot: '^(libs/object-store|testcontainers)/' },
      to: { path: 'node_modules/@aws-sdk/' },
    },
    {
      name: 'redis-client-in-broker-alone',
      severity: 'error',
      from: { pathNot: '^(libs/broker|testcontainers)/' },
      to: { path: 'node_modules/ioredis/' },
    },
    {
      name: 'opentelemetry-in-telemetry-alone',
      severity: 'error',
      from: { pathNot: '^libs/telemetry/' },
      to: { path: 'node_modules/@opentelemetry/' },
    },
    {
      name: 'pure-libs-touch-nothing',
      comment: 'What they need is handed in.',
      severity: 'error',
      from: { path: '^libs/(base|postgres|consensus|storage)/', pathNot: TEST },
      to: { path: '^(node:)?(fs|net|http|https|http2|child_process|worker_threads|timers)(/promises)?$' },
    },
    {
      name: 'no-unresolved',
      severity: 'error',
      from: {},
      to: { couldNotResolve: true },
    },
  ],
  options: {
    doNotFollow: { path: 'node_modules' },
    tsConfig: { fileName: 'tsconfig.json' },
    tsPreCompilationDeps: true,
    enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'node', 'default'] },
    exclude: { path: 'libs/rpc/src/gen' },
  },
}
