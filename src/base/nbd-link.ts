/** How an NBD export on a unix socket is named where a file could be: by qemu-img, nbdcopy, guestfish (the NBD URI). */
export function nbdLink(socket: string, name: string): string {
  return `nbd+unix:///${encodeURIComponent(name)}?socket=${encodeURI(socket)}`;
}
