/** A QMP client and the scripted QEMU it talks to. */
import { QmpClient } from '../../qmp/index.ts';
import { type PeerConnection, ScriptedPeer } from './scripted-peer.ts';
import type { Teardown } from './temp-dir.ts';

export const GREETING = {
  QMP: { version: { qemu: { major: 7, minor: 2, micro: 22 }, package: '' }, capabilities: ['oob'] },
};

export interface Connected {
  readonly client: QmpClient;
  readonly qemu: PeerConnection;
  readonly path: string;
}

/** A client that has greeted and negotiated. */
export async function connectedClient(
  t: Teardown,
  options: { maxLineBytes?: number } = {},
): Promise<Connected> {
  const peer = await ScriptedPeer.listen(t);
  const connecting = QmpClient.connect({ path: peer.path, ...options });
  const qemu = await peer.accept(t);
  qemu.send(GREETING);
  const { id } = await qemu.request();
  qemu.send({ return: {}, id });
  const client = await connecting;
  t.teardown(() => client.close());
  return { client, qemu, path: peer.path };
}

export function eventOf(event: string, data: Record<string, unknown> = {}): object {
  return { event, data, timestamp: { seconds: 1, microseconds: 0 } };
}
