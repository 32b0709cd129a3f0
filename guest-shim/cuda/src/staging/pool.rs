//! The threads that help with large copies of pageable memory.
//!
//! They are made at the first such copy, serve all threads of the program in turn, sleep while there is nothing to copy, and end when
//! there was nothing for long. The thread that copies always works itself, so a copy goes on without any of them.

use super::job::Job;
use crate::thread;
use std::{
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// Environment variable: threads that copy, the calling one included.
pub const VARIABLE: &str = "VGPU_COPY_THREADS";
const DEFAULT: usize = 4;
const MOST: usize = 64;
/// How long a helper polls for the next piece before it sleeps: for longer than the device takes for the last chunks, so that it is there
/// when the program copies again at once.
const POLL: Duration = Duration::from_micros(200);
/// How long a helper sleeps without work before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// Threads that copy one copy together, the calling one included.
pub fn threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let wanted = std::env::var(VARIABLE).ok();
        limit(wanted.as_deref(), processors)
    })
}

fn limit(wanted: Option<&str>, processors: usize) -> usize {
    let wanted = wanted.and_then(|text| text.trim().parse().ok()).unwrap_or(DEFAULT);
    wanted.min(processors).clamp(1, MOST)
}

struct Pool {
    state: Mutex<State>,
    wake: Condvar,
    /// Helpers that sleep or are about to.
    sleepers: AtomicUsize,
    /// Changes with the list of jobs.
    generation: AtomicUsize,
}

struct State {
    jobs: Vec<Arc<Job>>,
    helpers: usize,
}

static POOL: Pool = Pool::new();

impl Pool {
    const fn new() -> Self {
        Pool {
            state: Mutex::new(State { jobs: Vec::new(), helpers: 0 }),
            wake: Condvar::new(),
            sleepers: AtomicUsize::new(0),
            generation: AtomicUsize::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&'static self, job: Arc<Job>, helpers: usize) {
        let mut state = self.state();
        state.jobs.push(job);
        self.generation.fetch_add(1, Ordering::SeqCst);
        while state.helpers < helpers && spawn(self) {
            state.helpers += 1;
        }
    }

    fn remove(&self, job: &Arc<Job>) {
        let mut state = self.state();
        state.jobs.retain(|other| !Arc::ptr_eq(other, job));
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Wakes sleepers after there is something for them.
    fn rouse(&self) {
        if self.sleepers.load(Ordering::SeqCst) > 0 {
            // A sleeper looks for work with the lock held, so it sleeps by now or has seen the work.
            drop(self.state());
            self.wake.notify_all();
        }
    }

    /// Sleeps until there may be work. `false`: there was none for long, and the helper is taken off the count.
    fn sleep(&self) -> bool {
        let mut state = self.state();
        self.sleepers.fetch_add(1, Ordering::SeqCst);
        let goes_on = loop {
            if state.jobs.iter().any(|job| job.has_more()) {
                break true;
            }
            let (back, timeout) = self.wake.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = back;
            if timeout.timed_out() && state.jobs.is_empty() {
                state.helpers -= 1;
                break false;
            }
        };
        self.sleepers.fetch_sub(1, Ordering::SeqCst);
        goes_on
    }

    /// A helper's life.
    fn help(&self) {
        let mut jobs = Vec::new();
        let mut seen = None;
        let mut idle = Instant::now();
        loop {
            let generation = self.generation.load(Ordering::SeqCst);
            if seen != Some(generation) {
                jobs.clone_from(&self.state().jobs);
                seen = Some(generation);
            }
            // A piece of each in turn: no copy waits for another to end.
            let worked = jobs.iter().fold(false, |worked, job| job.copy_piece() | worked);
            if worked {
                idle = Instant::now();
            } else if idle.elapsed() < POLL {
                std::hint::spin_loop();
            } else {
                jobs.clear();
                seen = None;
                if !self.sleep() {
                    return;
                }
                idle = Instant::now();
            }
        }
    }
}

/// Starts a helper; without one the copy is slower, no more.
fn spawn(pool: &'static Pool) -> bool {
    // What a piece itself raises is the program's to handle: a page that the program protects, say.
    let open = [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP];
    let started = thread::spawn("vgpu-copy", &open, move || pool.help());
    if let Err(e) = &started {
        vgpu_client::warn!("copying: starting a thread: {e}");
    }
    started.is_ok()
}

/// A job that the pool knows of. At its end no thread touches the job's memory any more.
pub struct Running {
    job: Arc<Job>,
    helped: bool,
}

impl Running {
    /// Has `helpers` threads help, if they are there.
    pub fn start(job: Job, helpers: usize) -> Self {
        let job = Arc::new(job);
        if helpers > 0 {
            POOL.add(Arc::clone(&job), helpers);
        }
        Running { job, helped: helpers > 0 }
    }

    pub fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// As [`Job::open`].
    pub fn open(&self, opened: usize, chunks: usize) {
        if opened < chunks {
            self.job.open(opened, chunks);
            if self.helped {
                POOL.rouse();
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.job.close();
        if self.helped {
            POOL.remove(&self.job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            job::Direction,
            place::{PIECE, Place},
        },
        *,
    };

    fn copy_through_the_pool(seed: usize, len: usize) {
        let program: Vec<u8> = (0..len).map(|i| (i.wrapping_mul(31 + seed) >> 5) as u8).collect();
        let (block, blocks) = (PIECE, 4);
        let mut ring = vec![0_u8; block * blocks];
        let place = Place {
            program: program.as_ptr().expose_provenance(),
            len,
            ring: ring.as_mut_ptr().expose_provenance(),
            block,
            blocks,
        };
        // SAFETY: both live until the end of the function, after `running`.
        let running = Running::start(unsafe { Job::new(place, Direction::IntoRing) }, 3);
        let (mut opened, mut taken) = (0, 0);
        while taken < place.chunks() {
            let room = place.room(taken);
            running.open(opened, room);
            opened = room;
            while taken < opened && running.job().is_copied(taken) {
                let slot = place.chunk_address(taken) - place.ring;
                let (at, len) = (place.offset(taken), place.chunk_len(taken));
                assert!(ring[slot..slot + len] == program[at..at + len], "chunk {taken}");
                ring[slot..slot + len].fill(0);
                taken += 1;
            }
            // Left to the helpers at times.
            if !(taken + seed).is_multiple_of(3) {
                running.job().copy_piece();
            } else {
                std::thread::yield_now();
            }
        }
        drop(running);
    }

    #[test]
    fn copies_of_several_threads_share_the_pool() {
        std::thread::scope(|scope| {
            for seed in 0..4 {
                scope.spawn(move || {
                    for round in 0..6 {
                        copy_through_the_pool(seed, 20 * PIECE + round * 1001);
                    }
                });
            }
        });
        assert!(POOL.state().jobs.is_empty());
        assert!(POOL.state().helpers <= 3);
    }

    #[test]
    fn a_sleeping_helper_copies_what_is_opened() {
        let program = vec![7_u8; 2 * PIECE];
        let mut ring = vec![0_u8; 2 * PIECE];
        let place = Place {
            program: program.as_ptr().expose_provenance(),
            len: program.len(),
            ring: ring.as_mut_ptr().expose_provenance(),
            block: PIECE,
            blocks: 2,
        };
        // SAFETY: both live until after `running`.
        let running = Running::start(unsafe { Job::new(place, Direction::IntoRing) }, 1);
        std::thread::sleep(Duration::from_millis(20));
        running.open(0, 2);
        let began = Instant::now();
        while !(running.job().is_copied(0) && running.job().is_copied(1)) {
            assert!(began.elapsed() < Duration::from_secs(20), "nobody helps");
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(running);
        assert!(ring == program);
    }

    #[test]
    fn threads_are_limited_by_wish_and_processors() {
        assert_eq!(limit(None, 16), DEFAULT);
        assert_eq!(limit(None, 2), 2);
        assert_eq!(limit(Some("8"), 16), 8);
        assert_eq!(limit(Some("0"), 16), 1);
        assert_eq!(limit(Some("1000"), 128), MOST);
        assert_eq!(limit(Some("many"), 16), DEFAULT);
    }
}
