//! Launches that wait in a lane one behind another, given to the driver together, as a graph that is a chain of kernels.
//!
//! A plain launch costs the driver 3.5 µs, one in such a graph 1 to 1.5 µs (measured on an H100, driver 580): 0.2 µs to set the node's
//! kernel, shape and parameters, and a share of the graph's launch. The graphs are made ahead, for chains of 2 to 32 kernels, once a stream has
//! had so many launches that it pays; then they are set and launched again and again. A graph of one stream is never launched in another: the
//! driver would have the second launch wait for the first.
//!
//! To the program nothing changes: only launches without attributes are taken, in a stream of the default priority, from a lane that is
//! behind, while nothing is captured and no other VM wants the device. What the driver does not take into a graph, or refuses there, is
//! launched by itself: so its errors are those of a launch.

use super::{
    capture::relaxed,
    dispatch::{self, Results},
    driver::Driver,
    error::{self, NOT_SUPPORTED, Outcome, check},
    graph_kernel::KernelNode,
    launch::Extra,
    thread::Thread,
};
use std::{collections::HashSet, ptr::null, sync::atomic::Ordering};
use vgpu_spec::wire::{args::Reader, lane::function_id};

/// The most launches held at a time, and in a graph.
const MOST: usize = 1 << (SIZES - 1 + LEAST_POWER);
/// Graphs have 2, 4, … 32 kernels.
const SIZES: usize = 5;
const LEAST_POWER: usize = 1;
/// Graphs of one size for a stream: where kernels alternate, one that has the same ones already is cheaper to set.
const ALIKE: usize = 4;
/// Streams of a context that have graphs of a lane at the same time.
const STREAMS: usize = 4;
/// Launches that would have been cheaper in a graph after which one is made: making it costs about as much.
const PAYS: usize = 64;
/// Bytes of parameters that are held, beyond which launches go by themselves.
const MOST_BYTES: usize = 64 << 10;

const LAUNCH: u32 = function_id("vgpuLaunch");

/// A launch that is held.
#[derive(Debug, Clone, Copy)]
pub struct Launch {
    /// The driver's function or kernel, the other 0.
    pub callable: (u64, u64),
    /// Grid, block, dynamic shared memory.
    pub shape: [u32; 7],
    /// Its parameters among those of all.
    start: usize,
    len: usize,
}

/// Contexts and kernels are what they were as long as both are the same: the session's epochs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Age {
    contexts: u64,
    kernels: u64,
}

/// A chain of kernels.
#[derive(Debug)]
struct Chain {
    graph: u64,
    exec: u64,
    nodes: Vec<u64>,
    callables: Vec<(u64, u64)>,
}

/// The chains of a stream, by size, those used last at the end.
#[derive(Debug)]
struct Chains {
    context: u32,
    stream: u64,
    kernels: u64,
    by_size: [Vec<Chain>; SIZES],
}

/// What a lane thread holds, and its graphs.
#[derive(Debug, Default)]
pub struct Batch {
    /// A launch that is dispatched is to be held.
    holds: bool,
    /// The stream of all that is held.
    stream: u64,
    launches: Vec<Launch>,
    /// Words, so that the parameters have the alignment of any.
    parameters: Vec<u64>,
    /// CUresults of held launches that failed.
    failed: Vec<u32>,
    age: Age,
    /// Those used last at the end.
    streams: Vec<Chains>,
    /// What the driver did not take into a graph.
    refused: HashSet<(u64, u64)>,
    /// It makes no graphs at all.
    off: bool,
    /// Launches that found no graph, towards the next one.
    missed: usize,
}

impl Batch {
    /// Whether the launch that is dispatched is to be held.
    #[inline]
    pub fn holds(&self) -> bool {
        self.holds
    }

    /// Takes a launch.
    ///
    /// # Errors
    /// Any if it is to go by itself.
    pub fn take(&mut self, callable: (u64, u64), shape: [u32; 7], stream: u64, parameters: &[u8]) -> Outcome {
        let start = self.parameters.len();
        let other = !self.launches.is_empty() && self.stream != stream;
        let full = 8 * start + parameters.len() > MOST_BYTES || self.launches.len() >= MOST;
        if other || full || self.refused.contains(&callable) {
            return Err(NOT_SUPPORTED);
        }
        self.stream = stream;
        self.parameters.resize(start + parameters.len().div_ceil(8), 0);
        vgpu_spec::plain::fill(&mut self.parameters[start..], parameters);
        self.launches.push(Launch { callable, shape, start, len: parameters.len() });
        Ok(())
    }

    fn bytes(&self, launch: &Launch) -> &[u8] {
        let words = self.parameters.get(launch.start..).unwrap_or_default();
        vgpu_spec::plain::bytes_of(words).get(..launch.len).unwrap_or_default()
    }

    /// The chain for launches `at..at + size`, set to them; `None` if there is none yet, or the driver refuses one.
    fn chain(&mut self, driver: &Driver, context: u32, at: usize, size: usize) -> Option<u64> {
        self.enter(driver, context, self.stream);
        let place = self.find(driver, at, size)?;
        let chain = self.streams.last()?.by_size.get(slot(size))?.get(place)?;
        let launches = self.launches.get(at..at + size)?;
        let set = driver.cuGraphExecKernelNodeSetParams_v2?;
        for (launch, node) in launches.iter().zip(&chain.nodes) {
            let mut extra = Extra::new();
            let params = KernelNode::with_buffer(launch, &mut extra, self.bytes(launch));
            // SAFETY: a graph and a node of this thread's own, a live function or kernel, and parameters that the driver copies.
            if unsafe { set(chain.exec, *node, (&raw const params).cast()) } != 0 {
                // Perhaps only with these values: the launch itself says.
                self.refused.insert(launch.callable);
                return None;
            }
        }
        let chains = self.streams.last_mut()?.by_size.get_mut(slot(size))?.get_mut(place..)?;
        chains.rotate_left(1);
        let chain = chains.last_mut()?;
        chain.callables.clear();
        chain.callables.extend(launches.iter().map(|launch| launch.callable));
        Some(chain.exec)
    }

    /// The place of a chain among those of its size: one that has the same kernels, or the one that was not used for longest. Makes one
    /// if that pays.
    fn find(&mut self, driver: &Driver, at: usize, size: usize) -> Option<usize> {
        let launches = self.launches.get(at..at + size)?;
        let chains = self.streams.last()?.by_size.get(slot(size))?;
        let same = |chain: &Chain| chain.callables.iter().eq(launches.iter().map(|launch| &launch.callable));
        if let Some(place) = chains.iter().position(same) {
            return Some(place);
        }
        self.missed += size;
        if self.missed >= PAYS && chains.len() < ALIKE {
            self.missed = 0;
            // A capture may begin in another thread at this moment.
            let made = relaxed(driver, || self.make(driver, at, size)).ok().flatten();
            if made.is_none() {
                tracing::debug!("the driver makes no graph of launches: each goes by itself");
                self.off = true;
            }
            let chains = self.streams.last_mut()?.by_size.get_mut(slot(size))?;
            chains.push(made?);
            return Some(chains.len() - 1);
        }
        if chains.is_empty() { None } else { Some(0) }
    }

    /// Moves the chains of a stream of the current context to the end of the list.
    fn enter(&mut self, driver: &Driver, context: u32, stream: u64) {
        let (kernels, is_it) =
            (self.age.kernels, |chains: &Chains| (chains.context, chains.stream) == (context, stream));
        if self.streams.last().is_some_and(|chains| is_it(chains) && chains.kernels == kernels) {
            return;
        }
        let known = self.streams.iter().position(is_it).map(|place| self.streams.remove(place));
        let chains = match known {
            Some(chains) if chains.kernels == kernels => chains,
            old => {
                old.into_iter().for_each(|chains| destroy(driver, chains));
                Chains { context, stream, kernels, by_size: Default::default() }
            }
        };
        let same = |chains: &Chains| chains.context == context;
        if self.streams.iter().filter(|chains| same(chains)).count() >= STREAMS
            && let Some(oldest) = self.streams.iter().position(same)
        {
            destroy(driver, self.streams.remove(oldest));
        }
        self.streams.push(chains);
    }

    fn make(&self, driver: &Driver, at: usize, size: usize) -> Option<Chain> {
        let (create, add) = (driver.cuGraphCreate?, driver.cuGraphAddKernelNode_v2?);
        let instantiate = driver.cuGraphInstantiateWithFlags?;
        let launches = self.launches.get(at..at + size)?;
        let mut chain = Chain { graph: 0, exec: 0, nodes: Vec::new(), callables: Vec::new() };
        // SAFETY: places that outlive the calls, live functions or kernels, and parameters that the driver copies.
        let made = unsafe { create(&raw mut chain.graph, 0) } == 0
            && launches.iter().all(|launch| {
                let mut extra = Extra::new();
                let params = KernelNode::with_buffer(launch, &mut extra, self.bytes(launch));
                let (mut node, before) = (0_u64, chain.nodes.last().copied());
                let after = before.as_ref().map_or(null(), std::ptr::from_ref);
                let count = usize::from(before.is_some());
                let params = (&raw const params).cast();
                // SAFETY: as above.
                let added = unsafe { add(&raw mut node, chain.graph, after, count, params) } == 0;
                chain.nodes.push(node);
                added
            })
            // SAFETY: as above.
            && unsafe { instantiate(&raw mut chain.exec, chain.graph, 0) } == 0;
        chain.callables = launches.iter().map(|launch| launch.callable).collect();
        if made {
            return Some(chain);
        }
        chain.destroy(driver);
        None
    }

    /// Uses nothing from before a change.
    fn come_to(&mut self, age: Age) {
        if age == self.age {
            return;
        }
        if age.contexts != self.age.contexts {
            // Not destroyed: a context may have ended, and the driver does not come back from destroying a graph of an ended one.
            self.streams.clear();
        }
        self.age = age;
        self.refused.clear();
        self.off = false;
    }

    /// Destroys the graphs of a context that lives, and forgets those of others. What is launched runs on.
    pub fn leave(&mut self, driver: &Driver, context: Option<u32>) {
        for chains in self.streams.drain(..) {
            if Some(chains.context) == context {
                destroy(driver, chains);
            }
        }
    }
}

/// Which place chains of `size` kernels have.
fn slot(size: usize) -> usize {
    (size.trailing_zeros() as usize).saturating_sub(LEAST_POWER)
}

/// The largest chain for so many launches; `None` if they are too few for any.
fn size_for(launches: usize) -> Option<usize> {
    let power = launches.min(MOST).checked_ilog2()?;
    (power as usize >= LEAST_POWER).then_some(1 << power)
}

fn destroy(driver: &Driver, chains: Chains) {
    let chains = chains.by_size.into_iter().flatten();
    // A capture may begin in another thread at this moment. Where the driver does not help with that, the graphs stay.
    let _ = relaxed(driver, || chains.for_each(|chain| chain.destroy(driver)));
}

impl Chain {
    fn destroy(self, driver: &Driver) {
        if let (Some(destroy), true) = (driver.cuGraphExecDestroy, self.exec != 0) {
            // SAFETY: this thread's own, not used again; a launch of it that has not ended does.
            unsafe { destroy(self.exec) };
        }
        if let (Some(destroy), true) = (driver.cuGraphDestroy, self.graph != 0) {
            // SAFETY: as above.
            unsafe { destroy(self.graph) };
        }
    }
}

impl Thread {
    /// Kernels may be launched otherwise from now on, or some have ended.
    pub fn kernels_changed(&self) {
        self.session.kernel_epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Holds the launch of a message; false if it is to be executed by itself.
    pub fn hold_launch(&mut self, function: u32, (thread, context): (u32, u32), args: &[u8]) -> bool {
        let fits = function == LAUNCH
            && !self.batch.off
            && context == self.context_index()
            && self.is_current()
            && self.modes.is_in(thread)
            && !self.session.turns.captures()
            && !self.session.streams_differ.load(Ordering::Acquire)
            && self.has_device();
        if !fits {
            return false;
        }
        self.comes(function);
        let held = self.batch.launches.len();
        self.batch.holds = true;
        // A launch has no results, and what is wrong with one is said when it is executed by itself.
        let _ = dispatch::dispatch(self, function, Reader::new(args), &mut Results(&mut Vec::new()));
        self.batch.holds = false;
        let is_held = self.batch.launches.len() > held;
        if self.inside.is_some() {
            // Another VM came just now: what the turn is for must be issued in it.
            self.issue_launches();
            self.leave_turn();
        }
        is_held
    }

    /// Gives the driver what is held, in its order; adds function and CUresult of what failed.
    pub fn issue_held(&mut self, failed: &mut Vec<(u32, u32)>) {
        self.issue_launches();
        failed.extend(self.batch.failed.drain(..).map(|status| (LAUNCH, status)));
    }

    fn issue_launches(&mut self) {
        let mut batch = std::mem::take(&mut self.batch);
        let (context, contexts) = self.context_now();
        let kernels = self.session.kernel_epoch.load(Ordering::Acquire);
        batch.come_to(Age { contexts, kernels });
        let mut at = 0;
        if self.has_default_priority(batch.stream) {
            while let Some(size) = size_for(batch.launches.len() - at) {
                let chain = batch.chain(self.driver, context, at, size);
                if chain.is_none_or(|exec| self.launch_chain(exec, batch.stream).is_err()) {
                    break;
                }
                at += size;
            }
        }
        for launch in batch.launches.get(at..).unwrap_or_default() {
            if let Err(error) = self.launch_alone(&batch, launch) {
                batch.failed.push(error.0);
            }
        }
        batch.launches.clear();
        batch.parameters.clear();
        self.batch = batch;
    }

    fn has_default_priority(&self, stream: u64) -> bool {
        let mut priority = 0_i32;
        // SAFETY: a live stream of this client, and a place that outlives the call.
        self.driver.cuStreamGetPriority.is_some_and(|get| unsafe { get(stream, &raw mut priority) } == 0)
            && priority == 0
    }

    fn launch_chain(&self, exec: u64, stream: u64) -> Outcome {
        let launch = self.driver.cuGraphLaunch.ok_or(NOT_SUPPORTED)?;
        // SAFETY: a graph of this thread's own, and a live stream of this client.
        check(unsafe { launch(exec, stream) })
    }

    fn launch_alone(&mut self, batch: &Batch, launch: &Launch) -> Outcome {
        let again =
            |t: &mut Thread| t.launch(launch.callable, launch.shape, batch.stream, batch.bytes(launch));
        match again(self) {
            Err(error::OUT_OF_MEMORY) => self.with_room(again),
            outcome => outcome,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::api::error::OUT_OF_MEMORY;
    use std::cell::RefCell;
    use vgpu_spec::plain::Blob8;

    /// Threads of a block that this driver refuses.
    const TOO_MANY: u32 = 2048;

    /// What the driver was asked.
    #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
    struct Asked {
        made: u32,
        set: u32,
        destroyed: u32,
    }

    thread_local!(static ASKED: RefCell<Asked> = RefCell::default());

    fn asked(change: impl FnOnce(&mut Asked)) {
        ASKED.with_borrow_mut(change);
    }

    fn take_asked() -> Asked {
        ASKED.take()
    }

    extern "C" fn create(graph: *mut u64, _: u32) -> u32 {
        // SAFETY: a place for the handle.
        unsafe { graph.write(7) };
        0
    }

    extern "C" fn add(node: *mut u64, _: u64, after: *const u64, n: usize, _: *const Blob8<72>) -> u32 {
        // SAFETY: as many nodes as were said, and a place for the handle.
        unsafe { node.write(if n == 0 { 1 } else { after.read() + 1 }) };
        0
    }

    extern "C" fn instantiate(exec: *mut u64, _: u64, _: u64) -> u32 {
        asked(|asked| asked.made += 1);
        // SAFETY: a place for the handle.
        unsafe { exec.write(9) };
        0
    }

    extern "C" fn set(_: u64, _: u64, params: *const Blob8<72>) -> u32 {
        asked(|asked| asked.set += 1);
        // SAFETY: the parameters' bytes.
        let bytes = unsafe { &(*params).0 };
        u32::from(bytes[20..24] == TOO_MANY.to_le_bytes())
    }

    extern "C" fn exchange(_: *mut u32) -> u32 {
        0
    }

    extern "C" fn destroy_exec(_: u64) -> u32 {
        asked(|asked| asked.destroyed += 1);
        0
    }

    /// A driver with what is used here.
    fn driver() -> Driver {
        let mut driver = Driver::none();
        driver.cuGraphCreate = Some(create);
        driver.cuGraphAddKernelNode_v2 = Some(add);
        driver.cuGraphInstantiateWithFlags = Some(instantiate);
        driver.cuGraphExecKernelNodeSetParams_v2 = Some(set);
        driver.cuGraphExecDestroy = Some(destroy_exec);
        driver.cuThreadExchangeStreamCaptureMode = Some(exchange);
        driver
    }

    /// Holds launches of the functions, of blocks of so many threads, and asks for their chain.
    fn chain(batch: &mut Batch, functions: &[u64], threads: u32) -> Option<u64> {
        batch.launches.clear();
        batch.parameters.clear();
        for &function in functions {
            batch.take((function, 0), [1, 1, 1, threads, 1, 1, 0], 5, &[1, 2, 3]).ok()?;
        }
        batch.chain(&driver(), 1, 0, functions.len())
    }

    #[test]
    fn a_chain_is_made_once_it_pays_and_used_again() {
        let mut batch = Batch::default();
        take_asked();
        for _ in 1..PAYS / 4 {
            assert_eq!(chain(&mut batch, &[1, 2, 1, 2], 1), None);
        }
        assert_eq!(take_asked(), Asked::default());
        assert_eq!(chain(&mut batch, &[1, 2, 1, 2], 1), Some(9));
        for _ in 0..100 {
            assert_eq!(chain(&mut batch, &[1, 2, 1, 2], 1), Some(9));
        }
        assert_eq!(take_asked(), Asked { made: 1, set: 404, destroyed: 0 });
        // Others use the same one, until another pays.
        for _ in 0..100 {
            assert_eq!(chain(&mut batch, &[3, 4, 3, 5], 1), Some(9));
        }
        assert_eq!(take_asked().made, 0, "they have the same kernels by now");
        for i in 0..1000 {
            assert_eq!(chain(&mut batch, &[i, 1, 1, 1], 1), Some(9));
        }
        assert_eq!(take_asked().made as usize, ALIKE - 1);
    }

    #[test]
    fn what_the_driver_does_not_take_into_a_graph_goes_alone() {
        let mut batch = Batch { missed: PAYS, ..Batch::default() };
        assert_eq!(chain(&mut batch, &[1, 2], 1), Some(9));
        assert_eq!(chain(&mut batch, &[1, 2], TOO_MANY), None);
        let take = |batch: &mut Batch, function| batch.take((function, 0), [1; 7], 5, &[]);
        assert_eq!((take(&mut batch, 1), take(&mut batch, 2)), (Err(NOT_SUPPORTED), Ok(())));
        batch.come_to(Age { contexts: 0, kernels: 1 });
        assert_eq!(take(&mut batch, 1), Ok(()), "kernels have changed");
    }

    #[test]
    fn graphs_end_with_their_kernels_and_their_context_and_when_other_streams_need_room() {
        let mut batch = Batch::default();
        let make = |batch: &mut Batch| {
            batch.missed = PAYS;
            assert_eq!(chain(batch, &[1, 2], 1), Some(9));
            take_asked().destroyed
        };
        assert_eq!(make(&mut batch), 0);
        batch.come_to(Age { contexts: 0, kernels: 1 });
        assert_eq!(make(&mut batch), 1, "kernels have changed");
        // Whether the context lives is not known any more.
        batch.come_to(Age { contexts: 1, kernels: 1 });
        assert_eq!((make(&mut batch), batch.streams.len()), (0, 1));
        for other in 1..STREAMS as u64 {
            batch.enter(&driver(), 1, 5 + other);
            batch.enter(&driver(), 2, 5 + other);
        }
        assert_eq!((take_asked().destroyed, batch.streams.len()), (0, 2 * STREAMS - 1));
        batch.enter(&driver(), 1, 99);
        assert_eq!((take_asked().destroyed, batch.streams.len()), (1, 2 * STREAMS - 1));
        make(&mut batch);
        batch.leave(&driver(), Some(2));
        assert_eq!((take_asked().destroyed, batch.streams.len()), (0, 0));
        make(&mut batch);
        batch.leave(&driver(), Some(1));
        assert_eq!(take_asked().destroyed, 1);
    }

    #[test]
    fn launches_of_one_stream_are_held_up_to_a_number_and_a_size() {
        let mut batch = Batch::default();
        let shape = [1; 7];
        assert_eq!(batch.take((1, 0), shape, 5, &[7; 9]), Ok(()));
        assert_eq!(batch.take((0, 2), shape, 6, &[]), Err(NOT_SUPPORTED));
        assert_eq!(batch.take((0, 2), shape, 5, &[8; 3]), Ok(()));
        let bytes: Vec<_> = batch.launches.iter().map(|launch| batch.bytes(launch).to_vec()).collect();
        assert_eq!(bytes, [vec![7; 9], vec![8; 3]]);
        assert_eq!(batch.take((1, 0), shape, 5, &[0; MOST_BYTES]), Err(NOT_SUPPORTED));
        let taken = (0..100).filter(|_| batch.take((1, 0), shape, 5, &[]).is_ok()).count();
        assert_eq!(taken + 2, MOST);
        assert_ne!(NOT_SUPPORTED, OUT_OF_MEMORY, "for which room would be made");
    }

    #[test]
    fn sizes_are_powers_of_two() {
        let sizes: Vec<_> = [0, 1, 2, 3, 4, 31, 32, 99].into_iter().map(size_for).collect();
        let some = |n| Some(n);
        assert_eq!(sizes, [None, None, some(2), some(2), some(4), some(16), some(32), some(32)]);
        assert_eq!((MOST, slot(2), slot(32)), (32, 0, SIZES - 1));
    }
}
