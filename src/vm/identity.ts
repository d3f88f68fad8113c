import { connectClient, NameReply, UuidReply } from './vm.ts';

export interface VmIdentity {
  /** `-name`; null for a VM without. */
  readonly name: string | null;
  readonly uuid: string;
}

/** Who is behind a QMP socket. A chardev serves one client at a time: others wait for that short while. @throws vm-unreachable, vm-busy */
export async function identify(
  socket: string,
  { timeoutMs = 2_000, signal }: { timeoutMs?: number; signal?: AbortSignal | undefined } = {},
): Promise<VmIdentity> {
  const client = await connectClient(socket, timeoutMs, signal);
  try {
    const [name, uuid] = await Promise.all([client.execute('query-name'), client.execute('query-uuid')]);
    return { name: NameReply.parse(name).name ?? null, uuid: UuidReply.parse(uuid).UUID };
  } finally {
    await client.close();
  }
}
