# SPDX-License-Identifier: Apache-2.0
"""A program of some five hundred bytes that becomes another one: the last thing between our code and the container's.

It is an ELF file of one segment: header, machine code, data. What it does, in C, with `data` behind the code:

    prctl(PR_SET_DUMPABLE, 0);                       // nobody in the container shall take the descriptors
    fcntl(data.report, F_SETFD, FD_CLOEXEC);                                step 1
    if (data.gate >= 0) {
        fcntl(data.gate, F_SETFD, FD_CLOEXEC);
        if (read(data.gate, &byte, 1) != 1) exit_group(126);
    }
    if (data.filter.len)
        seccomp(SECCOMP_SET_MODE_FILTER, data.flags, &data.filter);         step 2
    if (data.init) {                                                        step 4
        prctl(PR_SET_NAME, "init");
        rt_sigprocmask(SIG_SETMASK, &most, NULL);    // a blocked one is queued for pid 1, whatever its default action
        pid = fork();
        if (pid > 0) {
            close_range(0, ~0, 0);                   // what the program closes is closed
            for (;;) {
                number = rt_sigtimedwait(&most, NULL, NULL);
                if (number > 0 && number != SIGCHLD) kill(pid, number);
                else while ((ended = wait4(-1, &status, WNOHANG, NULL)) > 0)
                    if (ended == pid) exit_group(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
            }
        }
        setpgid(0, 0);
        ioctl(0, TIOCSPGRP, &self);                  // else a terminal's Ctrl-C would come twice; TTOU must be blocked for this
        rt_sigprocmask(SIG_SETMASK, &none, NULL);
    }
    execve(argv[0], argv + 1, envp);                                        step 3
    write(data.report, {step, errno}, 8);            // when one of them fails
    exit_group(errno == ENOENT ? 127 : 126);

A report descriptor that is not open ends it at step 1. So it cannot run in a circle when the container's program names
/proc/self/exe as its interpreter, and nothing is done on behalf of whoever else starts it.
"""

from __future__ import annotations

import struct
import sys

STEPS = (
    "",
    "cannot keep a descriptor from the program",
    "cannot load the seccomp filter",
    "",
    "cannot start the program beside its init",
)

_BASE = 0x400000
_HEADERS = 64 + 2 * 56  # the ELF header and two program headers
_DATA = "=iiIIHxxxxxxQ"  # gate, report, flags, init, struct sock_fprog {len, filter}
_PT_LOAD, _PT_GNU_STACK = 1, 0x6474E551
_READ_EXECUTE, _READ_WRITE = 5, 6
_PAGE = 0x10000  # the largest of aarch64; both kernels take it

_X86_64 = bytes.fromhex(
    "4889e3"  #             mov   rbx, rsp         ; argc, argv[0], ..., 0, envp[0], ..., 0
    "488d2dde010000"  #     lea   rbp, [rip + data]
    "bf04000000"  #         mov   edi, 4           ; PR_SET_DUMPABLE
    "31f6"  #               xor   esi, esi         ; no
    "b89d000000"  #         mov   eax, 157         ; prctl
    "0f05"  #               syscall
    "41bc01000000"  #       mov   r12d, 1          ; step 1
    "8b7d04"  #             mov   edi, [rbp + 4]   ; report
    "be02000000"  #         mov   esi, 2           ; F_SETFD
    "ba01000000"  #         mov   edx, 1           ; FD_CLOEXEC, and the length for read
    "b848000000"  #         mov   eax, 72          ; fcntl
    "0f05"  #               syscall
    "85c0"  #               test  eax, eax
    "7867"  #               js    fail
    "8b7d00"  #             mov   edi, [rbp]       ; gate
    "85ff"  #               test  edi, edi
    "7819"  #               js    filter
    "b848000000"  #         mov   eax, 72          ; fcntl
    "0f05"  #               syscall
    "85c0"  #               test  eax, eax
    "7855"  #               js    fail
    "31c0"  #               xor   eax, eax         ; read
    "488d7424f8"  #         lea   rsi, [rsp - 8]
    "0f05"  #               syscall
    "83f801"  #             cmp   eax, 1
    "756a"  #               jne   quit
    # filter:
    "41bc02000000"  #       mov   r12d, 2          ; step 2
    "66837d1000"  #         cmp   word [rbp + 16], 0 ; filter.len
    "7417"  #               je    exec
    "bf01000000"  #         mov   edi, 1           ; SECCOMP_SET_MODE_FILTER
    "8b7508"  #             mov   esi, [rbp + 8]   ; flags
    "488d5510"  #           lea   rdx, [rbp + 16]
    "b83d010000"  #         mov   eax, 317         ; seccomp
    "0f05"  #               syscall
    "85c0"  #               test  eax, eax
    "7823"  #               js    fail
    # exec:
    "837d0c00"  #           cmp   dword [rbp + 12], 0 ; init
    "7554"  #               jne   init
    # become:
    "41bc03000000"  #       mov   r12d, 3          ; step 3
    "488b03"  #             mov   rax, [rbx]       ; argc
    "488b7b08"  #           mov   rdi, [rbx + 8]
    "488d7310"  #           lea   rsi, [rbx + 16]
    "488d54c310"  #         lea   rdx, [rbx + rax * 8 + 16]
    "b83b000000"  #         mov   eax, 59          ; execve
    "0f05"  #               syscall
    # fail:
    "f7d8"  #               neg   eax
    "4189c5"  #             mov   r13d, eax        ; errno; zero when the process starts
    "44896424f8"  #         mov   [rsp - 8], r12d
    "44896c24fc"  #         mov   [rsp - 4], r13d
    "8b7d04"  #             mov   edi, [rbp + 4]   ; report
    "488d7424f8"  #         lea   rsi, [rsp - 8]
    "ba08000000"  #         mov   edx, 8
    "b801000000"  #         mov   eax, 1           ; write
    "0f05"  #               syscall
    # quit:
    "bf7e000000"  #         mov   edi, 126
    "4183fd02"  #           cmp   r13d, 2          ; ENOENT
    "7502"  #               jne   leave
    "ffc7"  #               inc   edi
    # leave:
    "b8e7000000"  #         mov   eax, 231         ; exit_group
    "0f05"  #               syscall
    # init:
    "41bc04000000"  #       mov   r12d, 4          ; step 4
    "68696e6974"  #         push  0x74696e69       ; "init"
    "bf0f000000"  #         mov   edi, 15          ; PR_SET_NAME
    "4889e6"  #             mov   rsi, rsp
    "b89d000000"  #         mov   eax, 157         ; prctl
    "0f05"  #               syscall
    "68ffefbff7"  #         push  0xfffffffff7bfefff ; all signals but PIPE, URG, WINCH
    "bf02000000"  #         mov   edi, 2           ; SIG_SETMASK
    "4889e6"  #             mov   rsi, rsp
    "31d2"  #               xor   edx, edx
    "41ba08000000"  #       mov   r10d, 8          ; bytes of a set
    "b80e000000"  #         mov   eax, 14          ; rt_sigprocmask
    "0f05"  #               syscall
    "b839000000"  #         mov   eax, 57          ; fork
    "0f05"  #               syscall
    "85c0"  #               test  eax, eax
    "7888"  #               js    fail
    "747d"  #               je    child
    "4189c5"  #             mov   r13d, eax        ; the program's pid
    "31ff"  #               xor   edi, edi
    "beffffffff"  #         mov   esi, -1
    "31d2"  #               xor   edx, edx
    "b8b4010000"  #         mov   eax, 436         ; close_range
    "0f05"  #               syscall
    # next:
    "4889e7"  #             mov   rdi, rsp
    "31f6"  #               xor   esi, esi
    "31d2"  #               xor   edx, edx
    "41ba08000000"  #       mov   r10d, 8
    "b880000000"  #         mov   eax, 128         ; rt_sigtimedwait
    "0f05"  #               syscall
    "85c0"  #               test  eax, eax
    "7ee8"  #               jle   next
    "83f811"  #             cmp   eax, 17          ; SIGCHLD
    "740e"  #               je    reap
    "89c6"  #               mov   esi, eax
    "4489ef"  #             mov   edi, r13d
    "b83e000000"  #         mov   eax, 62          ; kill
    "0f05"  #               syscall
    "ebd5"  #               jmp   next
    # reap:
    "bfffffffff"  #         mov   edi, -1
    "488d7424f8"  #         lea   rsi, [rsp - 8]
    "ba01000000"  #         mov   edx, 1           ; WNOHANG
    "4531d2"  #             xor   r10d, r10d
    "b83d000000"  #         mov   eax, 61          ; wait4
    "0f05"  #               syscall
    "85c0"  #               test  eax, eax
    "7eb8"  #               jle   next
    "4439e8"  #             cmp   eax, r13d
    "75de"  #               jne   reap
    "0fb67c24f9"  #         movzx edi, byte [rsp - 7] ; the exit status
    "8b4424f8"  #           mov   eax, [rsp - 8]
    "83e07f"  #             and   eax, 127         ; the signal that killed it
    "0f8444ffffff"  #       je    leave
    "8db880000000"  #       lea   edi, [rax + 128]
    "e939ffffff"  #         jmp   leave
    # child:
    "31ff"  #               xor   edi, edi
    "31f6"  #               xor   esi, esi
    "b86d000000"  #         mov   eax, 109         ; setpgid
    "0f05"  #               syscall
    "b827000000"  #         mov   eax, 39          ; getpid
    "0f05"  #               syscall
    "894424f8"  #           mov   [rsp - 8], eax
    "31ff"  #               xor   edi, edi
    "be10540000"  #         mov   esi, 0x5410      ; TIOCSPGRP
    "488d5424f8"  #         lea   rdx, [rsp - 8]
    "b810000000"  #         mov   eax, 16          ; ioctl
    "0f05"  #               syscall
    "48c7042400000000"  #   mov   qword [rsp], 0
    "bf02000000"  #         mov   edi, 2           ; SIG_SETMASK
    "4889e6"  #             mov   rsi, rsp
    "31d2"  #               xor   edx, edx
    "41ba08000000"  #       mov   r10d, 8
    "b80e000000"  #         mov   eax, 14          ; rt_sigprocmask
    "0f05"  #               syscall
    "e99ffeffff"  #         jmp   become
    "0f1f8000000000"  #     nop                    ; data begins at a multiple of eight
    # data:
)

_AARCH64 = bytes.fromhex(
    "f3030091"  # mov   x19, sp          ; argc, argv[0], ..., 0, envp[0], ..., 0
    "34110010"  # adr   x20, data
    "ff4300d1"  # sub   sp, sp, #16
    "800080d2"  # mov   x0, #4           ; PR_SET_DUMPABLE
    "010080d2"  # mov   x1, #0           ; no
    "e81480d2"  # mov   x8, #167         ; prctl
    "010000d4"  # svc   #0
    "35008052"  # mov   w21, #1          ; step 1
    "800640b9"  # ldr   w0, [x20, #4]    ; report
    "410080d2"  # mov   x1, #2           ; F_SETFD
    "220080d2"  # mov   x2, #1           ; FD_CLOEXEC, and the length for read
    "280380d2"  # mov   x8, #25          ; fcntl
    "010000d4"  # svc   #0
    "c003f837"  # tbnz  w0, #31, fail
    "960240b9"  # ldr   w22, [x20]       ; gate
    "5601f837"  # tbnz  w22, #31, filter
    "e003162a"  # mov   w0, w22
    "010000d4"  # svc   #0
    "2003f837"  # tbnz  w0, #31, fail
    "e003162a"  # mov   w0, w22
    "e1030091"  # mov   x1, sp
    "e80780d2"  # mov   x8, #63          ; read
    "010000d4"  # svc   #0
    "1f040071"  # cmp   w0, #1
    "41030054"  # b.ne  quit
    # filter:
    "55008052"  # mov   w21, #2          ; step 2
    "89224079"  # ldrh  w9, [x20, #16]   ; filter.len
    "e9000034"  # cbz   w9, exec
    "200080d2"  # mov   x0, #1           ; SECCOMP_SET_MODE_FILTER
    "810a40b9"  # ldr   w1, [x20, #8]    ; flags
    "82420091"  # add   x2, x20, #16
    "a82280d2"  # mov   x8, #277         ; seccomp
    "010000d4"  # svc   #0
    "4001f837"  # tbnz  w0, #31, fail
    # exec:
    "890e40b9"  # ldr   w9, [x20, #12]   ; init
    "89020035"  # cbnz  w9, init
    # become:
    "75008052"  # mov   w21, #3          ; step 3
    "690240f9"  # ldr   x9, [x19]        ; argc
    "600640f9"  # ldr   x0, [x19, #8]
    "61420091"  # add   x1, x19, #16
    "220c098b"  # add   x2, x1, x9, lsl #3
    "a81b80d2"  # mov   x8, #221         ; execve
    "010000d4"  # svc   #0
    # fail:
    "f603004b"  # neg   w22, w0          ; errno
    "f55b0029"  # stp   w21, w22, [sp]
    "800640b9"  # ldr   w0, [x20, #4]    ; report
    "e1030091"  # mov   x1, sp
    "020180d2"  # mov   x2, #8
    "080880d2"  # mov   x8, #64          ; write
    "010000d4"  # svc   #0
    # quit: (w22 is the gate, hence neither 0, 1 nor 2, or the errno)
    "c00f8052"  # mov   w0, #126
    "df0a0071"  # cmp   w22, #2          ; ENOENT
    "0014801a"  # cinc  w0, w0, eq
    # leave:
    "c80b80d2"  # mov   x8, #94          ; exit_group
    "010000d4"  # svc   #0
    # init:
    "95008052"  # mov   w21, #4          ; step 4
    "c1090010"  # adr   x1, name
    "e00180d2"  # mov   x0, #15          ; PR_SET_NAME
    "e81480d2"  # mov   x8, #167         ; prctl
    "010000d4"  # svc   #0
    "89090058"  # ldr   x9, set
    "e90700f9"  # str   x9, [sp, #8]
    "400080d2"  # mov   x0, #2           ; SIG_SETMASK
    "e1230091"  # add   x1, sp, #8
    "020080d2"  # mov   x2, #0
    "030180d2"  # mov   x3, #8           ; bytes of a set
    "e81080d2"  # mov   x8, #135         ; rt_sigprocmask
    "010000d4"  # svc   #0
    "200280d2"  # mov   x0, #17          ; SIGCHLD at its end
    "010080d2"  # mov   x1, #0
    "020080d2"  # mov   x2, #0
    "030080d2"  # mov   x3, #0
    "040080d2"  # mov   x4, #0
    "881b80d2"  # mov   x8, #220         ; clone
    "010000d4"  # svc   #0
    "00fcff37"  # tbnz  w0, #31, fail
    "c0040034"  # cbz   w0, child
    "f603002a"  # mov   w22, w0          ; the program's pid
    "00008052"  # mov   w0, #0
    "01008012"  # mov   w1, #-1
    "02008052"  # mov   w2, #0
    "883680d2"  # mov   x8, #436         ; close_range
    "010000d4"  # svc   #0
    # next:
    "e0230091"  # add   x0, sp, #8
    "010080d2"  # mov   x1, #0
    "020080d2"  # mov   x2, #0
    "030180d2"  # mov   x3, #8
    "281180d2"  # mov   x8, #137         ; rt_sigtimedwait
    "010000d4"  # svc   #0
    "1f440071"  # cmp   w0, #17          ; SIGCHLD
    "00010054"  # b.eq  reap
    "1f000071"  # cmp   w0, #0
    "edfeff54"  # b.le  next
    "e103002a"  # mov   w1, w0
    "e003162a"  # mov   w0, w22
    "281080d2"  # mov   x8, #129         ; kill
    "010000d4"  # svc   #0
    "f2ffff17"  # b     next
    # reap:
    "00008012"  # mov   w0, #-1
    "e1030091"  # mov   x1, sp
    "22008052"  # mov   w2, #1           ; WNOHANG
    "030080d2"  # mov   x3, #0
    "882080d2"  # mov   x8, #260         ; wait4
    "010000d4"  # svc   #0
    "1f000071"  # cmp   w0, #0
    "4dfdff54"  # b.le  next
    "1f00166b"  # cmp   w0, w22
    "e1feff54"  # b.ne  reap
    "e0074039"  # ldrb  w0, [sp, #1]     ; the exit status
    "e90340b9"  # ldr   w9, [sp]
    "29190072"  # ands  w9, w9, #127     ; the signal that killed it
    "c0f8ff54"  # b.eq  leave
    "20010211"  # add   w0, w9, #128
    "c4ffff17"  # b     leave
    # child:
    "000080d2"  # mov   x0, #0
    "010080d2"  # mov   x1, #0
    "481380d2"  # mov   x8, #154         ; setpgid
    "010000d4"  # svc   #0
    "881580d2"  # mov   x8, #172         ; getpid
    "010000d4"  # svc   #0
    "e00300b9"  # str   w0, [sp]
    "000080d2"  # mov   x0, #0
    "01828ad2"  # mov   x1, #0x5410      ; TIOCSPGRP
    "e2030091"  # mov   x2, sp
    "a80380d2"  # mov   x8, #29          ; ioctl
    "010000d4"  # svc   #0
    "ff0700f9"  # str   xzr, [sp, #8]
    "400080d2"  # mov   x0, #2           ; SIG_SETMASK
    "e1230091"  # add   x1, sp, #8
    "020080d2"  # mov   x2, #0
    "030180d2"  # mov   x3, #8
    "e81080d2"  # mov   x8, #135         ; rt_sigprocmask
    "010000d4"  # svc   #0
    "9fffff17"  # b     become
    # name:
    "696e697400000000"  # "init"
    # set:
    "ffefbff7ffffffff"  # all signals but PIPE, URG, WINCH
    # data:
)

# By the first part of the interpreter's own target; uname(2) would tell the personality of the moment.
_MACHINES = {"x86_64-linux": (62, _X86_64), "aarch64-linux": (183, _AARCH64)}  # e_machine, code


def image(
    *, report: int, gate: int = -1, flags: int = 0, program: bytes = b"", init: bool = False
) -> bytes | None:
    """Return the ELF file for these descriptors and this seccomp filter; None where we have no code for the machine.

    With `init` it stays as the parent of the program: reaps, and hands signals on.
    """
    target = getattr(sys.implementation, "_multiarch", "")
    machine = _MACHINES.get("-".join(target.split("-")[:2])) if not target.endswith("x32") else None
    if machine is None:
        return None
    number, code = machine
    start = _HEADERS
    data = start + len(code)
    filter_address = _BASE + data + struct.calcsize(_DATA)
    body = struct.pack(_DATA, gate, report, flags, init, len(program) // 8, filter_address) + program
    return _headers(number, _BASE + start, data + len(body)) + code + body


def _headers(machine: int, entry: int, size: int) -> bytes:
    identity = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)  # 64 bits, little endian, version 1
    header = struct.pack("<16sHHIQQQIHHHHHH", identity, 2, machine, 1, entry, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", _PT_LOAD, _READ_EXECUTE, 0, _BASE, _BASE, size, size, _PAGE)
    stack = struct.pack("<IIQQQQQQ", _PT_GNU_STACK, _READ_WRITE, 0, 0, 0, 0, 0, 16)
    return header + load + stack
