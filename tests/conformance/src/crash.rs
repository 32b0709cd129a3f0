//! A call that comes back when the function crashes: a native driver follows bad handles, and a new process with a new context for each
//! costs more than everything else. What the function held stays held; so a crash makes the process suspect, and what goes wrong in
//! one is tried again in a new one.

use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicUsize, Ordering};

/// Words that a call gets; no function of the API has more parameters.
pub const WORDS: usize = 20;

/// The stack pointer to go back to; 0 outside a call.
static BACK: AtomicUsize = AtomicUsize::new(0);
/// The thread that calls.
static CALLER: AtomicI32 = AtomicI32::new(0);
static REGISTERED: AtomicPtr<u8> = AtomicPtr::new(std::ptr::null_mut());

/// What the trampoline returns after a crash, above all u32.
const CRASHED: u64 = 1 << 32;

// vgpu_conformance_call(function, words, floats, back): keeps the registers that a function may not change on the stack and the stack
// pointer in `back`; so it is enough to set that and to go on at `vgpu_conformance_back` to return from it at any time.
std::arch::global_asm!(
    ".global vgpu_conformance_call",
    ".global vgpu_conformance_back",
    "vgpu_conformance_call:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "mov [rcx], rsp",
    "mov rax, rdi",
    "mov r11, rsi",
    "movss xmm0, dword ptr [rdx]",
    "movss xmm1, dword ptr [rdx + 4]",
    // 14 words on the stack, and 8 bytes that keep it aligned.
    "sub rsp, 120",
    "mov ecx, 14",
    "2:",
    "mov rdx, [r11 + 40 + rcx * 8]",
    "mov [rsp - 8 + rcx * 8], rdx",
    "dec ecx",
    "jnz 2b",
    "mov rdi, [r11]",
    "mov rsi, [r11 + 8]",
    "mov rdx, [r11 + 16]",
    "mov rcx, [r11 + 24]",
    "mov r8, [r11 + 32]",
    "mov r9, [r11 + 40]",
    "call rax",
    "mov eax, eax",
    "add rsp, 120",
    "vgpu_conformance_back:",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
);

unsafe extern "C" {
    fn vgpu_conformance_call(function: usize, words: *const u64, floats: *const f32, back: *mut usize)
    -> u64;
    fn vgpu_conformance_back();
}

/// Calls the function; None if it crashed.
pub fn call(function: usize, words: &[u64; WORDS], floats: [f32; 2]) -> Option<u32> {
    install();
    // SAFETY: the address is of dlsym, so a function with this convention; bad arguments are this program's purpose, and a process of
    // its own bears what comes of them.
    let result = unsafe {
        CALLER.store(libc::gettid(), Ordering::Relaxed);
        vgpu_conformance_call(function, words.as_ptr(), floats.as_ptr(), BACK.as_ptr())
    };
    BACK.store(0, Ordering::Relaxed);
    u32::try_from(result).ok()
}

fn install() {
    if !REGISTERED.load(Ordering::Relaxed).is_null() {
        return;
    }
    const STACK: usize = 64 << 10;
    let stack = vec![0u8; STACK].leak().as_mut_ptr();
    REGISTERED.store(stack, Ordering::Relaxed);
    // SAFETY: the handler is async-signal-safe, its stack stays.
    unsafe {
        let alternate = libc::stack_t { ss_sp: stack.cast(), ss_flags: 0, ss_size: STACK };
        libc::sigaltstack(&raw const alternate, std::ptr::null_mut());
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = (handler as *const ()).expose_provenance();
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL] {
            libc::sigaction(signal, &raw const action, std::ptr::null_mut());
        }
    }
}

extern "C" fn handler(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let back = BACK.load(Ordering::Relaxed);
    // SAFETY: the kernel's context of this signal; plain system calls. Another thread's crash ends the process, as does one outside a call.
    unsafe {
        if back == 0 || libc::gettid() != CALLER.load(Ordering::Relaxed) {
            libc::signal(signal, libc::SIG_DFL);
            return;
        }
        let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
        registers[libc::REG_RSP as usize] = (back as u64).cast_signed();
        registers[libc::REG_RIP as usize] =
            ((vgpu_conformance_back as *const ()).expose_provenance() as u64).cast_signed();
        registers[libc::REG_RAX as usize] = CRASHED.cast_signed();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    extern "C" fn sum(a: f32, b: u64, c: u64, d: u64, e: u64, f: u64, g: u64, h: u64, last: u64) -> u32 {
        assert!((a - 2.5).abs() < 1e-6);
        u32::try_from(
            b + c * 10 + d * 100 + e * 1000 + f * 10_000 + g * 100_000 + h * 1_000_000 + last * 10_000_000,
        )
        .unwrap()
    }

    extern "C" fn crashes(address: *const u32) -> u32 {
        // SAFETY: not valid: that is the test.
        unsafe { address.read_volatile() }
    }

    #[test]
    fn arguments_arrive_and_a_crash_comes_back() {
        let mut words = [0; WORDS];
        for (i, word) in words.iter_mut().enumerate() {
            *word = i as u64 + 1;
        }
        assert_eq!(call((sum as *const ()).expose_provenance(), &words, [2.5, 0.0]), Some(87_654_321));
        for _ in 0..3 {
            words[0] = 16;
            assert_eq!(call((crashes as *const ()).expose_provenance(), &words, [0.0; 2]), None);
            words[0] = 1;
            assert_eq!(call((sum as *const ()).expose_provenance(), &words, [2.5, 0.0]), Some(87_654_321));
        }
    }
}
