//! States that a process enters once, for all functions of a noun.

use crate::{
    arguments::Argument,
    attributes,
    child::{Child, READY, RENEW, code, end, print, say},
    driver::{Call, Driver},
    memory::Piece,
    plan::{Case, State},
};
use serde_json::{Map, json};
use std::time::{Duration, Instant};

/// How long a forked child may take.
const PATIENCE: Duration = Duration::from_secs(3);

type Prepared = (Option<usize>, Vec<Argument>, Call);

/// Runs cases that all have this state; the exit code.
pub fn run(child: &mut Child, state: State, cases: &[Case]) -> i32 {
    if state == State::BeforeInit {
        child.fx.frozen = true;
    } else {
        child.fx.start();
    }
    let prepared: Vec<Prepared> = cases
        .iter()
        .map(|case| {
            // What this call ends is not what the others use.
            if attributes::ends_something(&case.symbol) && !child.fx.frozen {
                child.fx.renew();
            }
            let prepared = child.prepare(case);
            say(READY);
            prepared
        })
        .collect();
    child.fx.frozen = true;
    let (mut context, mut sticky) = (0, 0);
    match state {
        State::Fault => sticky = fault(child, "fault"),
        State::Trap => sticky = fault(child, "trapped"),
        State::DestroyedContext => context = destroy_current(child.driver),
        _ => {}
    }
    for (i, (case, (address, arguments, call))) in cases.iter().zip(&prepared).enumerate() {
        let Some(address) = *address else {
            print(case, end("no symbol"));
            continue;
        };
        if state == State::Forked {
            print(case, forked(child.driver, address, call));
            continue;
        }
        let Some(result) = child.driver.call(address, call) else {
            print(case, end("crashed: signal 11"));
            if state == State::BeforeInit {
                continue;
            }
            return RENEW;
        };
        let mut fields = code(result);
        // Handles mean nothing here, but a query's answer does.
        if result == 0 && state == State::BeforeInit {
            let shown = child.outputs(case, arguments);
            if !shown.is_empty() {
                fields.insert("o".into(), shown.into());
            }
        }
        let after = match state {
            State::Fault | State::Trap => child.driver.cu("cuCtxSynchronize", &[]),
            _ => 0,
        };
        if after != 0 {
            fields.insert("a".into(), json!(after));
        }
        print(case, fields);
        let holds = match state {
            State::Fault | State::Trap => after == sticky,
            State::DestroyedContext => current(child.driver) == context,
            _ => true,
        };
        if !holds && i + 1 < cases.len() {
            return RENEW;
        }
    }
    0
}

/// Runs a kernel that ends the context; the code that stays.
fn fault(child: &Child, kernel: &str) -> u32 {
    let driver = child.driver;
    let (module, function, one) = (Piece::filled(0), Piece::filled(0), 1);
    let image = crate::kernels::KERNELS.as_ptr().expose_provenance() as u64;
    driver.cu("cuModuleLoadData", &[module.0, image]);
    driver.cu("cuModuleGetFunction", &[function.0, module.word(0), crate::fixtures::text(kernel)]);
    driver.cu("cuLaunchKernel", &[function.word(0), one, one, one, one, one, one, 0, 0, 0, 0]);
    driver.cu("cuCtxSynchronize", &[])
}

fn current(driver: &Driver) -> u64 {
    let place = Piece::filled(0);
    driver.cu("cuCtxGetCurrent", &[place.0]);
    place.word(0)
}

/// Makes a context current that another thread then destroys.
fn destroy_current(driver: &Driver) -> u64 {
    let place = Piece::filled(0);
    driver.cu("cuCtxCreate_v2", &[place.0, 0, 0]);
    let context = place.word(0);
    if let Some(destroy) = driver.symbol("cuCtxDestroy_v2") {
        // SAFETY: the thread ends before this function does; the library stays.
        let other = Other { destroy, context };
        let _ = std::thread::spawn(move || other.run()).join();
    }
    current(driver)
}

struct Other {
    destroy: usize,
    context: u64,
}

impl Other {
    fn run(self) {
        // SAFETY: cuCtxDestroy_v2, which takes a context.
        unsafe {
            let f: extern "C" fn(u64) -> u32 = std::mem::transmute::<*const (), extern "C" fn(u64) -> u32>(
                std::ptr::with_exposed_provenance(self.destroy),
            );
            f(self.context);
        }
    }
}

/// The call in a forked child.
fn forked(driver: &Driver, address: usize, call: &Call) -> Map<String, serde_json::Value> {
    let mut pipe = [0; 2];
    // SAFETY: plain system calls; the child only calls the driver and ends.
    let pid = unsafe {
        libc::pipe(pipe.as_mut_ptr());
        libc::fork()
    };
    if pid == 0 {
        // After a crash nothing is written.
        let result = driver.call(address, call).map(u32::to_ne_bytes);
        // SAFETY: 4 bytes of a local.
        unsafe {
            if let Some(result) = result {
                libc::write(pipe[1], result.as_ptr().cast(), 4);
            }
            libc::_exit(0);
        }
    }
    let started = Instant::now();
    let mut status = 0;
    // SAFETY: our own child.
    while unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) } == 0 {
        if started.elapsed() > PATIENCE {
            // SAFETY: our own child, which still exists as nobody waited for it.
            unsafe {
                libc::kill(pid, libc::SIGKILL);
                libc::waitpid(pid, &raw mut status, 0);
                libc::close(pipe[0]);
                libc::close(pipe[1]);
            }
            return end("hung");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let mut bytes = [0; 4];
    // SAFETY: 4 bytes of a local; both ends are ours.
    let got = unsafe {
        libc::close(pipe[1]);
        let got = libc::read(pipe[0], bytes.as_mut_ptr().cast(), 4);
        libc::close(pipe[0]);
        got
    };
    match got {
        4 => code(u32::from_ne_bytes(bytes)),
        _ => end(&format!(
            "crashed: signal {}",
            if libc::WIFSIGNALED(status) { libc::WTERMSIG(status) } else { libc::SIGSEGV }
        )),
    }
}
