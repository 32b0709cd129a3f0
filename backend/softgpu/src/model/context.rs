//! Contexts.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::Device;
use super::handle::{self, Kind};
use super::stream::{Order, Stream, Turn};
use super::work::{Core, Point, Task, Work, next_id};
use super::{CudaError, Result, graph, special_stream, state};

/// The bits that a context's flags may have (`CU_CTX_FLAGS_MASK`).
pub const FLAGS_MASK: u32 = 0xff;
/// `CU_CTX_MAP_HOST`, which every context of the real driver has.
const MAP_HOST: u32 = 8;
/// Numbers of limits that exist (`CUlimit`).
const LIMITS: usize = 10;

/// Flags that there are, with one kind of scheduling at most.
pub fn are_valid(flags: u32) -> bool {
    flags & !FLAGS_MASK == 0 && (flags & 7).count_ones() <= 1
}

/// A context.
#[derive(Debug)]
pub struct Context {
    handle: u64,
    id: u64,
    flags: AtomicU32,
    is_primary: bool,
    core: Arc<Core>,
    /// The primary context and the multiprocessors of a green one.
    green: Option<(Arc<Context>, u32)>,
    legacy: Arc<Stream>,
    /// All streams but the legacy one. Its lock also orders what is given to blocking streams.
    streams: Mutex<Vec<Arc<Stream>>>,
    limits: [AtomicU64; LIMITS],
}

impl Context {
    /// A context under `handle`.
    pub fn new(handle: u64, device: &Arc<Device>, flags: u32, is_primary: bool) -> Arc<Context> {
        let core = Arc::new(Core::new(Arc::clone(device)));
        // An H100's, in the order of CUlimit; those that softgpu has no use for are kept and read back.
        let limits = [1024, 8_650_752, 8 << 20, 0, 2048, 64, 0, 232_448, 0, 0];
        Arc::new(Context {
            handle,
            id: next_id(),
            flags: AtomicU32::new(flags | MAP_HOST),
            is_primary,
            legacy: Stream::new(handle, Arc::clone(&core), Order::Legacy, 0),
            core,
            green: None,
            streams: Mutex::default(),
            limits: limits.map(AtomicU64::new),
        })
    }

    /// The context of a green context with so many multiprocessors: memory, code and events are the primary context's.
    pub fn new_green(primary: &Arc<Context>, sms: u32) -> Arc<Context> {
        let (handle, core) = (handle::new_handle(Kind::Context), Arc::clone(&primary.core));
        let limits = std::array::from_fn(|n| {
            AtomicU64::new(primary.limits.get(n).map_or(0, |limit| limit.load(Ordering::Relaxed)))
        });
        Arc::new(Context {
            handle,
            id: next_id(),
            flags: AtomicU32::new(primary.flags()),
            is_primary: false,
            legacy: Stream::new(handle, Arc::clone(&core), Order::Legacy, 0),
            core,
            green: Some((Arc::clone(primary), sms)),
            streams: Mutex::default(),
            limits,
        })
    }

    /// Handle of the context that memory, code and events belong to.
    pub fn owner(&self) -> u64 {
        self.green.as_ref().map_or(self.handle, |(primary, _)| primary.handle)
    }

    /// The number of the same.
    pub fn owner_id(&self) -> u64 {
        self.green.as_ref().map_or(self.id, |(primary, _)| primary.id)
    }

    /// The multiprocessors of a green context's.
    pub fn sm_limit(&self) -> Option<u32> {
        self.green.as_ref().map(|(_, sms)| *sms)
    }

    /// A context made by `cuCtxCreate`, known by a new handle.
    pub fn create(device: &Arc<Device>, flags: u32) -> Result<Arc<Context>> {
        if !are_valid(flags) {
            return Err(CudaError::InvalidValue);
        }
        device.check_fault()?;
        let context = Context::new(handle::new_handle(Kind::Context), device, flags, false);
        state()?.contexts.insert(context.handle, Arc::clone(&context));
        Ok(context)
    }

    /// The `CUcontext`.
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// The number that `cuCtxGetId` answers.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Its flags.
    pub fn flags(&self) -> u32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// Replaces its flags.
    pub fn set_flags(&self, flags: u32) -> Result {
        if !are_valid(flags) {
            return Err(CudaError::InvalidValue);
        }
        self.flags.store(flags | MAP_HOST, Ordering::Relaxed);
        Ok(())
    }

    /// Whether it is its device's primary context.
    pub fn is_primary(&self) -> bool {
        self.is_primary
    }

    /// Its device.
    pub fn device(&self) -> &Arc<Device> {
        &self.core.device
    }

    /// What it shares with its streams.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The legacy default stream.
    pub fn legacy_stream(&self) -> &Arc<Stream> {
        &self.legacy
    }

    /// A limit's place; `INVALID_VALUE` for an unknown one, `UNSUPPORTED_LIMIT` where an H100 has none.
    pub fn limit(&self, limit: u32) -> Result<&AtomicU64> {
        match limit {
            3 | 9 => Err(CudaError::UnsupportedLimit),
            _ => usize::try_from(limit).ok().and_then(|n| self.limits.get(n)).ok_or(CudaError::InvalidValue),
        }
    }

    /// A new stream, which the context knows.
    pub fn new_stream(&self, order: Order, priority: i32) -> Arc<Stream> {
        let stream = Stream::new(self.handle, Arc::clone(&self.core), order, priority);
        let mut streams = self.lock_streams();
        streams.retain(|stream| !stream.is_finished());
        streams.push(Arc::clone(&stream));
        stream
    }

    /// Ends a stream. What was given is still done, and waited for where a live stream's would be.
    pub fn forget_stream(&self, stream: &Arc<Stream>) {
        stream.close();
        self.lock_streams().retain(|stream| !stream.is_finished());
    }

    /// Gives `work` to `stream`, after what the default stream's rules and `after` ask.
    pub fn submit(&self, stream: &Arc<Stream>, mut after: Vec<Point>, work: Work) -> Result<Point> {
        let _ordered = self.order_for(stream, &mut after)?;
        stream.push(after, work)
    }

    /// Does `task` in `stream`'s order before it returns.
    pub fn perform(&self, stream: &Arc<Stream>, task: Task) -> Result {
        graph::forbid(stream)?;
        let turn = self.begin(stream, Work::Task(task))?;
        stream.take_turn(turn);
        self.core.output.flush();
        self.core.check()
    }

    fn begin(&self, stream: &Arc<Stream>, work: Work) -> Result<Turn> {
        let mut after = Vec::new();
        let ordered = self.order_for(stream, &mut after)?;
        let turn = stream.begin(after, work);
        drop(ordered);
        turn
    }

    /// Adds to `after` what the default stream's rules ask. Until the guard is dropped, no other blocking stream gets
    /// work, so all threads see one order.
    fn order_for(
        &self,
        stream: &Arc<Stream>,
        after: &mut Vec<Point>,
    ) -> Result<Option<MutexGuard<'_, Vec<Arc<Stream>>>>> {
        if stream.order() == Order::Independent {
            return Ok(None);
        }
        let streams = self.lock_streams();
        match stream.order() {
            Order::Legacy => {
                forbid_captures(&streams)?;
                after.extend(pending_of_blocking(&streams));
            }
            Order::Blocking | Order::Independent => after.extend(self.legacy.pending()),
        }
        Ok(Some(streams))
    }

    /// What `cuStreamQuery` and `cuStreamSynchronize` look at: the stream's work and, for the legacy stream, all that
    /// its next work would wait for.
    pub fn pending_in(&self, stream: &Arc<Stream>) -> Result<Vec<Point>> {
        let mut pending: Vec<Point> = stream.pending().into_iter().collect();
        if stream.order() == Order::Legacy {
            let streams = self.lock_streams();
            forbid_captures(&streams)?;
            pending.extend(pending_of_blocking(&streams));
        }
        Ok(pending)
    }

    /// Waits for all work of all streams, then prints what kernels printed. Returns the fault, if there was one.
    pub fn synchronize(&self) -> Result {
        self.wait_for(&self.pending())
    }

    /// All work of all streams that is not done.
    pub fn pending(&self) -> Vec<Point> {
        let mut pending: Vec<Point> = self.legacy.pending().into_iter().collect();
        pending.extend(self.lock_streams().iter().filter_map(Stream::pending));
        pending
    }

    /// Has every stream wait for `point`.
    pub fn all_wait_for(&self, point: &Point) -> Result {
        let streams = self.lock_streams();
        for stream in streams.iter().filter(|stream| !stream.is_finished()).chain([&self.legacy]) {
            stream.push(vec![point.clone()], Work::Wait)?;
        }
        Ok(())
    }

    /// Waits for `points`, then prints what kernels printed. Returns the fault, if there was one.
    pub fn wait_for(&self, points: &[Point]) -> Result {
        points.iter().for_each(Point::wait);
        self.core.output.flush();
        self.core.check()
    }

    /// Ends the context: waits for its work, then frees what it owns.
    pub fn destroy(&self) -> Result {
        let state = state()?;
        let _ = state.contexts.remove(self.handle);
        let _ = self.synchronize();
        let streams = std::mem::take(&mut *self.lock_streams());
        streams.iter().chain([&self.legacy]).for_each(|stream| stream.close());
        special_stream::forget(self.id);
        state.streams.retain(|stream| stream.context() != self.handle);
        state.events.retain(|event| event.context() != self.handle);
        for module in state.modules.all().iter().filter(|module| module.context() == self.handle) {
            module.unload()?;
        }
        state.functions.retain(|function| function.context() != self.handle);
        state.modules.retain(|module| module.context() != self.handle);
        state.memory.forget_context(self.handle);
        state.array_memory.forget_context(self.handle);
        state.arrays.retain(|array| array.context() != self.handle);
        state.mipmapped_arrays.retain(|array| array.context() != self.handle);
        state.textures.retain(|texture| texture.context() != self.handle);
        state.surfaces.retain(|surface| surface.context() != self.handle);
        Ok(())
    }

    fn lock_streams(&self) -> MutexGuard<'_, Vec<Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is done in the legacy stream would wait for streams that capture: it is refused, and breaks their captures.
fn forbid_captures(streams: &[Arc<Stream>]) -> Result {
    let mut result = Ok(());
    for stream in streams.iter().filter(|stream| stream.order() == Order::Blocking) {
        if graph::forbid(stream).is_err() {
            result = Err(CudaError::StreamCaptureImplicit);
        }
    }
    result
}

fn pending_of_blocking(streams: &[Arc<Stream>]) -> impl Iterator<Item = Point> {
    streams.iter().filter(|stream| stream.order() == Order::Blocking).filter_map(Stream::pending)
}
