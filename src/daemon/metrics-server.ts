/** GET /metrics for Prometheus, on a port of 127.0.0.1 or on a unix socket. Never on another address. */
import { once } from 'node:events';
import { createServer, type RequestListener, type Server } from 'node:http';
import { messageOf, QmpvaultError } from '../base/errors.ts';
import type { Config } from '../config/config.ts';
import { listenAt } from '../rpc/listening-socket.ts';
import type { Metrics } from './metrics.ts';

const CONNECTIONS_MAX = 16;
const REQUEST_MS = 10_000;

export interface MetricsServer {
  /** Of 127.0.0.1; null: on a socket. */
  readonly port: number | null;
  close(): Promise<void>;
}

/** @throws socket-unfit when it cannot be opened */
export async function serveMetrics(
  metrics: Pick<Metrics, 'text' | 'contentType'>,
  where: NonNullable<Config['metrics']>,
): Promise<MetricsServer> {
  const server = createServer(
    { requestTimeout: REQUEST_MS, headersTimeout: REQUEST_MS },
    answerWith(metrics),
  );
  server.maxConnections = CONNECTIONS_MAX;
  const removeSocket = 'port' in where ? null : await listenAt(server, { path: where.socket });
  const port = 'port' in where ? await listenOnPort(server, where.port) : null;
  return {
    port,
    close: async () => {
      if (!server.listening) return;
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
      await removeSocket?.();
    },
  };
}

async function listenOnPort(server: Server, port: number): Promise<number> {
  try {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
  } catch (cause) {
    throw new QmpvaultError(
      'socket-unfit',
      `metrics cannot be served on 127.0.0.1:${port}: ${messageOf(cause)}. Choose another port.`,
      { details: { port }, cause },
    );
  }
  const address = server.address();
  return typeof address === 'object' && address !== null ? address.port : port;
}

function answerWith(metrics: Pick<Metrics, 'text' | 'contentType'>): RequestListener {
  return (request, response) => {
    const isRead = request.method === 'GET' || request.method === 'HEAD';
    if (!isRead) return void response.writeHead(405, { allow: 'GET, HEAD' }).end();
    if (request.url !== '/metrics') return void response.writeHead(404).end('see /metrics\n');
    metrics.text().then(
      (text) => response.writeHead(200, { 'content-type': metrics.contentType }).end(text),
      () => response.writeHead(500).end(),
    );
  };
}
