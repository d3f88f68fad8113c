/**
 * How fast a guest can be run here: with KVM where that works, else by translation (TCG).
 *
 * That /dev/kvm is there and QEMU starts with it says little: a nested KVM, or one of another kind (m: kvm_pvm), runs the
 * firmware and then stands still. So a ROM in place of the firmware is run, which goes from reset to long mode as every
 * present-day kernel does, and there tells QEMU to end (m: 0.2 s; refused where Linux did not boot either).
 */
import { rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { KiB } from '../base/units.ts';
import type { QemuTools } from './tools.ts';

export type Accelerator = 'kvm' | 'tcg';

/**
 * Assembled for 0xF0000 from:
 *
 *     .code16                        xorw %ax,%ax; movw %ax,%es; cld
 *                                    movw $0x1000,%di; movw $0x1800,%cx; rep stosw   # clear three tables
 *                                    movw $0x2003,%es:0x1000                         # PML4 -> PDPT
 *                                    movw $0x3003,%es:0x2000                         # PDPT -> PD
 *                                    movw $0x0083,%es:0x3000                         # the first 2 MiB, as they are
 *                                    movl $0x1000,%edi; movl %edi,%cr3
 *                                    movl %cr4,%eax; orb $0x20,%al; movl %eax,%cr4   # PAE
 *                                    movl $0xc0000080,%ecx; rdmsr; orb $1,%ah; wrmsr # EFER.LME
 *                                    lgdtl %cs:gdtr
 *                                    movl %cr0,%eax; orl $0x80000001,%eax; movl %eax,%cr0
 *                                    ljmpl $8,$long
 *     .code64                  long: movw $0xf4,%dx; movb $1,%al; outb %al,%dx; hlt  # isa-debug-exit
 *     .balign 8                 gdt: .quad 0, 0x00209a0000000000
 *                              gdtr: .word 15; .long gdt
 */
const CODE = Buffer.from(
  '31c08ec0fcbf0010b90018f3ab26c7060010032026c706002003302' +
    '6c7060030830066bf001000000f22df0f20e00c200f22e066b9800000c00f3280cc010f302e660f011678000f20c0660d01000080' +
    '0f22c066ea5b000f00080066baf400b001eef40f1f440000000000000000000000000000009a20000f0068000f00',
  'hex',
);
/** Where a processor begins: a jump to the code, F000:0000. */
const RESET = { at: 0xfff0, code: Buffer.of(0xea, 0, 0, 0, 0xf0) };
const ROM_BYTES = 64 * KiB;
const PORT = 0xf4;
/** isa-debug-exit: `(value << 1) | 1` of what is written to its port. */
const REACHED = 3;
const PROBE_MS = 3_000;

/** By program: it does not change while we live, and that KVM does not work may take some seconds to find out. */
const known = new Map<string, Accelerator>();

/** @param dir ours alone; a file is made in it for as long as it takes */
export async function workingAccelerator(tools: QemuTools, dir: string): Promise<Accelerator> {
  const found = known.get(tools.qemuSystem) ?? ((await reachesLongMode(tools, 'kvm', dir)) ? 'kvm' : 'tcg');
  known.set(tools.qemuSystem, found);
  return found;
}

export async function reachesLongMode(
  { qemuSystem }: QemuTools,
  accelerator: Accelerator,
  dir: string,
): Promise<boolean> {
  const path = join(dir, 'probe.rom');
  const rom = Buffer.alloc(ROM_BYTES);
  CODE.copy(rom);
  RESET.code.copy(rom, RESET.at);
  await writeFile(path, rom);
  const machine = ['-machine', 'q35', '-accel', accelerator, '-cpu', 'max', '-m', '64', '-nodefaults'];
  const exit = ['-device', `isa-debug-exit,iobase=${PORT},iosize=1`];
  const args = [...machine, '-display', 'none', '-bios', path, ...exit];
  const { exitCode } = await execa('setpriv', ['--pdeathsig', 'KILL', qemuSystem, ...args], {
    detached: true,
    reject: false,
    stdio: 'ignore',
    timeout: PROBE_MS,
    killSignal: 'SIGKILL',
  });
  await rm(path, { force: true });
  return exitCode === REACHED;
}
