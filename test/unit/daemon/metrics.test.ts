import { existsSync, readFileSync, statSync } from 'node:fs';
import { request } from 'node:http';
import { join } from 'node:path';
import t from 'tap';
import { parse } from 'yaml';
import { Metrics } from '../../../src/daemon/metrics.ts';
import { type MetricsServer, serveMetrics } from '../../../src/daemon/metrics-server.ts';
import type { RunRecord } from '../../../src/daemon/run-record.ts';
import type { OperationName } from '../../../src/operations/index.ts';
import type { DaemonStatus } from '../../../src/rpc/status.ts';
import { runOf } from '../../helpers/runs.ts';
import { tempDir } from '../../helpers/temp-dir.ts';

const VM = {
  name: 'web1',
  source: 'configured',
  uuid: null,
  state: 'running',
  qmp: '/run/web1',
  agent: null,
  vault: 'nas',
  schedule: null,
  lastPoint: { id: 'p', createdAt: '2026-11-20T08:00:00.500Z' },
  nextRun: { what: 'backup', at: '2026-11-21T08:00:00.000Z' },
  runId: null,
  bitmaps: 'healthy',
  problem: null,
} as const;

const STATUS: DaemonStatus = {
  version: '1.2.3',
  pid: 1,
  startedAt: '2026-11-20T00:00:00.000Z',
  state: 'running',
  config: { file: '/c', readAt: '2026-11-20T00:00:00.000Z', problem: null },
  runs: { queued: 3, running: 2, limit: 2, bandwidth: null },
  vaults: [
    {
      name: 'nas',
      path: '/x',
      state: 'away',
      since: null,
      why: 'no answer',
      totalBytes: 1000,
      freeBytes: 100,
    },
    { name: 'usb', path: '/y', state: 'unknown', since: null, why: null, totalBytes: null, freeBytes: null },
  ],
  vms: [
    VM,
    { ...VM, name: 'we"b\n2', lastPoint: null, nextRun: null, bitmaps: 'lost', problem: 'no socket' },
    { ...VM, name: 'web3', lastPoint: null, nextRun: null, bitmaps: 'unknown' },
  ],
};

const POINT = {
  id: 'p',
  vm: 'web1',
  kind: 'full',
  how: 'first',
  why: '',
  parent: null,
  createdAt: '2026-11-20T08:00:00.000Z',
  consistency: 'crash',
  sealed: false,
  protected: false,
  disks: ['vda', 'vdb'].map((name) => ({
    name,
    file: name,
    virtualSizeBytes: 9,
    copiedBytes: 1000,
    storedBytes: 600,
    sha256: null,
  })),
  timings: { freezeMs: 20, pauseMs: 4, copyMs: 80, totalMs: 190 },
};

function ended(
  what: OperationName,
  state: RunRecord['state'],
  result: unknown,
  facts: Partial<RunRecord> = {},
): RunRecord {
  const [startedAt, endedAt] = ['2026-11-20T08:00:00.000Z', '2026-11-20T08:00:30.000Z'];
  return { ...runOf(), what, state, result, startedAt, endedAt, ...facts };
}

const RUNS = [
  ended('backup', 'succeeded', { point: POINT, warnings: [] }, { warnings: ['slow'] }),
  ended('backup', 'failed', null, { endedAt: '2026-11-20T09:00:00.000Z' }),
  ended('backup', 'cancelled', null, { endedAt: '2026-11-20T10:00:00.000Z' }),
  ended('verify', 'succeeded', {
    checked: 1,
    damaged: [{ vm: 'web1', point: 'p', disk: null, what: 'x', affects: [] }],
    booted: [],
    warnings: [],
  }),
  ended('prune', 'succeeded', {
    kept: [],
    removed: ['q'],
    freedBytes: 77,
    mergedBytes: 0,
    dryRun: false,
    warnings: [],
  }),
  runOf({ state: 'running' }),
];

function metricsOf(): Metrics {
  const metrics = new Metrics({ status: async () => STATUS, runs: () => RUNS });
  for (const run of RUNS.slice(0, 5)) metrics.runEnded(run);
  return metrics;
}

t.test('what Prometheus is told', async (t) => {
  const lines = (await metricsOf().text()).split('\n');
  for (const line of [
    'qmpvault_info{version="1.2.3"} 1',
    'qmpvault_config_ok 1',
    'qmpvault_runs{state="queued"} 3',
    'qmpvault_runs{state="running"} 2',
    'qmpvault_vault_state{vault="nas",state="away"} 1',
    'qmpvault_vault_state{vault="nas",state="ready"} 0',
    'qmpvault_vault_free_bytes{vault="nas"} 100',
    'qmpvault_newest_point_timestamp_seconds{vm="web1"} 1795161600.5',
    'qmpvault_next_run_timestamp_seconds{vm="web1"} 1795248000',
    'qmpvault_bitmaps_healthy{vm="web1"} 1',
    'qmpvault_bitmaps_healthy{vm="we\\"b\\n2"} 0',
    'qmpvault_vm_problem{vm="we\\"b\\n2"} 1',
    'qmpvault_last_run_success{vm="web1",what="backup"} 0',
    'qmpvault_last_run_success{vm="web1",what="verify"} 1',
    'qmpvault_last_success_timestamp_seconds{vm="web1",what="backup"} 1795161630',
    'qmpvault_last_guest_pause_seconds{vm="web1"} 0.004',
    'qmpvault_last_guest_freeze_seconds{vm="web1"} 0.02',
    'qmpvault_damage_found{vm="web1"} 1',
    'qmpvault_runs_ended_total{what="backup",state="succeeded"} 1',
    'qmpvault_runs_ended_total{what="backup",state="failed"} 1',
    'qmpvault_run_duration_seconds_bucket{le="60",what="prune"} 1',
    'qmpvault_run_duration_seconds_sum{what="prune"} 30',
    'qmpvault_copied_bytes_total{vm="web1"} 2000',
    'qmpvault_stored_bytes_total{vm="web1"} 1200',
    'qmpvault_freed_bytes_total{vm="web1"} 77',
    'qmpvault_guest_pause_seconds_bucket{le="0.01"} 1',
    'qmpvault_guest_pause_seconds_count 1',
  ]) {
    t.ok(lines.includes(line), line);
  }
  for (const absent of [
    'bitmaps_healthy{vm="web3"}',
    'free_bytes{vault="usb"}',
    'point_timestamp_seconds{vm="web3"}',
  ]) {
    t.notOk(
      lines.some((line) => line.includes(absent)),
      `nothing is said of ${absent}`,
    );
  }
});

t.test('a VM that goes takes its metrics with it', async (t) => {
  let vms = STATUS.vms;
  const metrics = new Metrics({ status: async () => ({ ...STATUS, vms }), runs: () => [] });
  t.match(await metrics.text(), /vm_problem\{vm="web3"\}/);
  vms = [VM];
  t.notMatch(await metrics.text(), /web3/);
});

t.test('the dashboard and the alerts name metrics that there are, and leave none out', async (t) => {
  const folder = new URL('../../../docs/monitoring/', import.meta.url);
  const dashboard = JSON.parse(readFileSync(new URL('grafana-dashboard.json', folder), 'utf8'));
  const alerts = parse(readFileSync(new URL('alerts.yaml', folder), 'utf8'));
  const rules: Record<string, string>[] = alerts.groups[0].rules;
  const panels: { targets: { expr: string }[] }[] = dashboard.panels;
  const expressions = [
    ...panels.flatMap(({ targets }) => targets.map(({ expr }) => expr)),
    ...rules.map(({ expr }) => expr ?? ''),
  ];
  const names = [...(await metricsOf().text()).matchAll(/^# TYPE (\w+)/gm)].map(([, name]) => name ?? '');
  const used = new Set(expressions.flatMap((text) => text.match(/(?:qmpvault|process)_\w+/g) ?? []));
  t.strictSame([...new Set([...used].map((name) => name.replace(/_bucket$/, '')))].sort(), [...names].sort());
  for (const rule of rules) {
    t.match(rule, {
      alert: /^Qmpvault/,
      expr: String,
      annotations: { summary: String, description: String },
    });
  }
  for (const expr of expressions) {
    t.equal(expr.split('(').length, expr.split(')').length, expr);
    t.notMatch(expr, /\s$/);
  }
});

async function get(server: { port?: number; socketPath?: string }, path = '/metrics', method = 'GET') {
  const { promise, resolve, reject } = Promise.withResolvers<{ status: number | undefined; body: string }>();
  request({ host: '127.0.0.1', agent: false, ...server, path, method }, async (response) => {
    resolve({ status: response.statusCode, body: (await response.toArray()).join('') });
  })
    .on('error', reject)
    .end();
  return promise;
}

t.test('they are served on a loopback port, and nothing else is', async (t) => {
  const server = await serveMetrics(metricsOf(), { port: 0 });
  t.teardown(() => server.close());
  const port = server.port ?? 0;
  t.match(await get({ port }), { status: 200, body: /^# HELP qmpvault_/m });
  t.match(await get({ port }, '/'), { status: 404 });
  t.match(await get({ port }, '/metrics', 'POST'), { status: 405 });
  await t.rejects(serveMetrics(metricsOf(), { port }), { code: 'socket-unfit', message: /EADDRINUSE/ });
  await server.close();
  await t.rejects(get({ port }), { code: 'ECONNREFUSED' });
});

t.test(
  'or on a socket, in the place of one that was left behind, and never of one that answers',
  async (t) => {
    const socket = join(tempDir(t), 'metrics.sock');
    const servers: MetricsServer[] = [];
    t.teardown(() => Promise.all(servers.map((server) => server.close())));
    servers.push(await serveMetrics(metricsOf(), { socket }));
    t.match(await get({ socketPath: socket }), { status: 200 });
    t.equal(statSync(socket).mode & 0o777, 0o660);
    await t.rejects(serveMetrics(metricsOf(), { socket }), { code: 'socket-unfit' });
    t.match(await get({ socketPath: socket }), { status: 200 }, 'which is still there');
    await servers[0]?.close();
    t.notOk(existsSync(socket));
  },
);
