//! Contexts: the stack of each thread is kept here, and each message names the current one.
//!
//! A context's words in the handle table: device ordinal, and flags; a green context has the flags of the primary context, and the
//! worker's name for it in their place.

use crate::{call::put, calls, client, coredump, error, export_table, green_context, handles};
use std::{
    cell::{Cell, RefCell},
    sync::{Mutex, PoisonError},
};
use vgpu_spec::{
    handle,
    handle::Kind,
    plain::{Blob4, Blob8},
};

/// What cuCtxGetApiVersion says of contexts made by cuCtxCreate_v2 and later.
const API_VERSION: u32 = 3020;
/// All flags of cuCtxCreate (CU_CTX_FLAGS_MASK).
const FLAGS: u32 = 0xff;
const UNSUPPORTED_AFFINITY: u32 = vgpu_spec::result::CudaError::UnsupportedExecAffinity as u32;
/// CU_CTX_SCHED_MASK: one of these at most.
const SCHEDULING: u32 = 0x7;
/// CU_CTX_COREDUMP_ENABLE and CU_CTX_USER_COREDUMP_ENABLE: the latter means the former.
const COREDUMP: u32 = 0x20;
const USER_COREDUMP: u32 = 0x40;
/// CU_CTX_MAP_HOST, which primary contexts have.
const MAP_HOST: u32 = 0x8;

thread_local! {
    /// The current context; apart from the stack, since every call reads it.
    static CURRENT: Cell<u64> = const { Cell::new(0) };
    /// What cuCtxPopCurrent goes back to. Gone when the thread's data are destroyed; then the stack is empty.
    static BELOW: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

/// The current context, or 0.
#[inline]
pub fn current() -> u64 {
    CURRENT.get()
}

/// The current context's index for a message's header, or 0: also when it was destroyed while it was current, as what needs one is refused
/// before it is sent.
#[inline]
pub fn index() -> u32 {
    let current = CURRENT.get();
    if has_ended(current) { 0 } else { handle::split_of(Kind::Context, current).map_or(0, |p| p.index) }
}

/// Whether the current context was destroyed, by another thread, and is still current.
#[inline]
pub fn is_destroyed() -> bool {
    has_ended(CURRENT.get())
}

#[inline]
fn has_ended(context: u64) -> bool {
    context != 0 && handles::check_context(context).is_err()
}

/// Refuses when there is no current context, or one that was destroyed.
#[inline]
pub fn require() -> error::Result {
    client::get()?;
    handles::check_context(CURRENT.get())
}

/// The error that has ended the current context, if one has: for what is answered without the driver, which says that first.
pub fn sticky_error() -> error::Result {
    calls::cuMemGetInfo_v2(None, None)
}

/// The current context's device.
pub fn device() -> error::Result<i32> {
    handles::check_context(current())?;
    device_of(current())
}

/// A context's device.
pub fn device_of(context: u64) -> error::Result<i32> {
    let (device, _) = handles::words(Kind::Context, context).map_err(|_| error::INVALID_CONTEXT)?;
    i32::try_from(device).map_err(|_| error::INVALID_CONTEXT)
}

/// `context`, or the current one for NULL.
pub fn resolve(context: u64) -> error::Result<u64> {
    let context = if context == 0 { current() } else { context };
    handles::check_context(context)?;
    Ok(context)
}

fn push(context: u64) {
    let below = CURRENT.replace(context);
    let _ = BELOW.try_with(|stack| stack.borrow_mut().push(below));
}

fn pop() -> u64 {
    let below = BELOW.try_with(|stack| stack.borrow_mut().pop()).ok().flatten().unwrap_or(0);
    CURRENT.replace(below)
}

/// Ends what belongs to `context`: handles whose second word is it, and context-local storage.
pub fn forget(context: u64) {
    for kind in [Kind::Stream, Kind::Event, Kind::Module] {
        for number in handles::all(kind) {
            if handles::words(kind, number).is_ok_and(|w| w.1 == context) {
                if kind == Kind::Module {
                    crate::module::forget_functions(number);
                }
                handles::remove(number);
            }
        }
    }
    crate::kernel::forget_context(context);
    crate::memory::forget_context(context);
    crate::coredump::context_destroyed(context);
    export_table::context_destroyed(context);
}

/// Makes a handle for the context of the green context that the worker knows as `green`.
pub fn new_green(device: i32, green: u64) -> error::Result<u64> {
    handles::create_with(Kind::Context, u64::from(device.cast_unsigned()), green)
}

/// The worker's name for the green context that this is of; `None` for an ordinary context. Flags have 32 bits, and no handle so few.
#[inline]
pub fn green(context: u64) -> Option<u64> {
    handles::words(Kind::Context, context).ok().map(|w| w.1).filter(|&word| u32::try_from(word).is_err())
}

/// Whether this is the context of a green context.
#[inline]
pub fn is_green(context: u64) -> bool {
    green(context).is_some()
}

/// Takes `context` off this thread's stack if it is current.
pub fn leave(context: u64) {
    if current() == context {
        pop();
    }
}

/// Flags that there are, with one kind of scheduling at most.
pub fn valid_flags(flags: u32) -> bool {
    flags & !FLAGS == 0 && (flags & SCHEDULING).count_ones() <= 1
}

fn create(place: *mut u64, flags: u32, device: i32) -> error::Result {
    if place.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let context = new(flags, device)?;
    push(context);
    // SAFETY: checked above; the program's pointer.
    unsafe { put(place, context) }
}

/// A new context, which is not current yet.
fn new(flags: u32, device: i32) -> error::Result<u64> {
    if !valid_flags(flags) {
        return Err(error::INVALID_VALUE);
    }
    let flags = if flags & USER_COREDUMP == 0 { flags } else { flags & !USER_COREDUMP | COREDUMP };
    let host = client::get()?.devices.host_ordinal(device)?;
    let context = handles::create_with(Kind::Context, u64::from(device.cast_unsigned()), u64::from(flags))?;
    if let Err(status) = calls::vgpuContextCreate(context, flags, host) {
        handles::remove(context);
        return Err(status);
    }
    coredump::context_created(context, flags);
    Ok(context)
}

/// The first version makes contexts with device addresses of 32 bits, for which no device of today is small enough (measured): only
/// what else is wrong is told first.
pub unsafe fn cuCtxCreate(pctx: *mut u64, flags: u32, dev: i32) -> error::Result {
    if pctx.is_null() {
        return Err(error::INVALID_VALUE);
    }
    let context = new(flags, dev)?;
    end(context)?;
    Err(error::OUT_OF_MEMORY)
}

pub unsafe fn cuCtxCreate_v2(pctx: *mut u64, flags: u32, dev: i32) -> error::Result {
    create(pctx, flags, dev)
}

/// Execution affinity needs MPS, which does not reach into a guest.
pub unsafe fn cuCtxCreate_v3(
    pctx: *mut u64,
    params: *mut Blob4<8>,
    numParams: i32,
    flags: u32,
    dev: i32,
) -> error::Result {
    if numParams > 0 {
        return Err(if params.is_null() { error::INVALID_VALUE } else { UNSUPPORTED_AFFINITY });
    }
    create(pctx, flags, dev)
}

pub unsafe fn cuCtxCreate_v4(pctx: *mut u64, params: *mut Blob8<24>, flags: u32, dev: i32) -> error::Result {
    // SAFETY: the program's pointer, or NULL.
    let wanted = unsafe { params.as_ref() };
    let Some(Blob8(bytes)) = wanted else { return create(pctx, flags, dev) };
    let zero = |range: std::ops::Range<usize>| bytes[range].iter().all(|&b| b == 0);
    if !zero(16..24) {
        // Graphics sharing: a queue or a blob of a graphics driver, which a guest has not.
        return Err(error::NOT_SUPPORTED);
    }
    match i32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]) {
        ..=0 => create(pctx, flags, dev),
        _ if zero(0..8) => Err(error::INVALID_VALUE),
        _ => Err(UNSUPPORTED_AFFINITY),
    }
}

pub unsafe fn cuCtxDestroy_v2(ctx: u64) -> error::Result {
    if ctx == 0 {
        return Err(error::INVALID_VALUE);
    }
    handles::check_context(ctx)?;
    if is_green(ctx) {
        return Err(error::INVALID_CONTEXT);
    }
    if client::get()?.devices.primary(device_of(ctx)?)? == ctx {
        return Err(error::INVALID_CONTEXT);
    }
    leave(ctx);
    end(ctx)
}

fn end(context: u64) -> error::Result {
    let result = calls::vgpuContextDestroy(context);
    forget(context);
    handles::remove(context);
    result
}

pub unsafe fn cuCtxDestroy(ctx: u64) -> error::Result {
    // SAFETY: no pointers.
    unsafe { cuCtxDestroy_v2(ctx) }
}

/// As the functions that change the stack refuse (measured): NULL with `null`, anything else with CUDA_ERROR_INVALID_CONTEXT.
fn check_for(context: u64, null: u32) -> error::Result {
    handles::check_context(context).map_err(|_| if context == 0 { null } else { error::INVALID_CONTEXT })
}

pub unsafe fn cuCtxPushCurrent_v2(ctx: u64) -> error::Result {
    check_for(ctx, error::INVALID_VALUE)?;
    push(ctx);
    Ok(())
}

pub unsafe fn cuCtxPushCurrent(ctx: u64) -> error::Result {
    // SAFETY: no pointers.
    unsafe { cuCtxPushCurrent_v2(ctx) }
}

pub unsafe fn cuCtxPopCurrent_v2(pctx: *mut u64) -> error::Result {
    if current() == 0 {
        return Err(error::INVALID_CONTEXT);
    }
    let context = pop();
    // SAFETY: the program's pointer, which may be NULL.
    if let Some(place) = unsafe { pctx.as_mut() } {
        *place = context;
    }
    Ok(())
}

pub unsafe fn cuCtxPopCurrent(pctx: *mut u64) -> error::Result {
    // SAFETY: as there.
    unsafe { cuCtxPopCurrent_v2(pctx) }
}

/// Replaces the top of the stack; NULL takes it off.
pub unsafe fn cuCtxSetCurrent(ctx: u64) -> error::Result {
    if ctx == 0 {
        if current() != 0 {
            pop();
        }
        return Ok(());
    }
    check_for(ctx, error::INVALID_CONTEXT)?;
    if current() == 0 {
        push(ctx);
    } else {
        CURRENT.set(ctx);
    }
    Ok(())
}

pub unsafe fn cuCtxGetCurrent(pctx: *mut u64) -> error::Result {
    // SAFETY: the program's pointer.
    unsafe { put(pctx, current()) }
}

pub unsafe fn cuCtxGetApiVersion(ctx: u64, version: *mut u32) -> error::Result {
    if ctx != 0 {
        check_for(ctx, error::INVALID_CONTEXT)?;
    }
    resolve(ctx)?;
    // SAFETY: the program's pointer.
    unsafe { put(version, API_VERSION) }
}

/// A number unique in this process's life: the handle itself is one.
pub fn id_of(context: u64) -> error::Result<u64> {
    resolve(context)
}

pub unsafe fn cuCtxGetId(ctx: u64, ctxId: *mut u64) -> error::Result {
    let id = id_of(ctx)?;
    // SAFETY: the program's pointer.
    unsafe { put(ctxId, id) }
}

/// How often contexts are attached, beyond their creation.
static ATTACHED: Mutex<Vec<u64>> = Mutex::new(Vec::new());

/// Deprecated since CUDA 4: counts uses of the current context.
pub unsafe fn cuCtxAttach(pctx: *mut u64, flags: u32) -> error::Result {
    require()?;
    if flags != 0 {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the program's pointer.
    unsafe { put(pctx, current()) }?;
    ATTACHED.lock().unwrap_or_else(PoisonError::into_inner).push(current());
    Ok(())
}

/// Only the current context; its last use's end is its own.
pub unsafe fn cuCtxDetach(ctx: u64) -> error::Result {
    require()?;
    if ctx != current() {
        return Err(error::INVALID_CONTEXT);
    }
    {
        let mut attached = ATTACHED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = attached.iter().position(|&c| c == ctx) {
            attached.swap_remove(place);
            return Ok(());
        }
    }
    // SAFETY: no pointers.
    unsafe { cuCtxDestroy_v2(ctx) }
}

/// NULL is the current context.
pub unsafe fn cuCtxSynchronize_v2(ctx: u64) -> error::Result {
    calls::cuCtxSynchronize_v2(resolve(ctx)?)
}

/// The current context, or the primary one of a green context, with device and flags. It may have been destroyed: it tells these still
/// (measured).
fn told() -> error::Result<(u64, i32, u32)> {
    let context = green_context::owner(current());
    let (device, flags) = handles::last_words(Kind::Context, context).ok_or(error::INVALID_CONTEXT)?;
    let device = i32::try_from(device).map_err(|_| error::INVALID_CONTEXT)?;
    // A green context that has ended does not lead to the primary one any more, and has no flags.
    Ok((context, device, u32::try_from(flags).unwrap_or(0)))
}

pub unsafe fn cuCtxGetDevice(device: *mut i32) -> error::Result {
    let (_, ordinal, _) = told()?;
    // SAFETY: the program's pointer.
    unsafe { put(device, ordinal) }
}

pub unsafe fn cuCtxGetDevice_v2(device: *mut i32, ctx: u64) -> error::Result {
    let ordinal = device_of(resolve(ctx)?)?;
    // SAFETY: the program's pointer.
    unsafe { put(device, ordinal) }
}

pub unsafe fn cuCtxGetFlags(flags: *mut u32) -> error::Result {
    let devices = &client::get()?.devices;
    let (context, device, value) = told()?;
    let is_primary = devices.primary(device)? == context;
    // SAFETY: the program's pointer.
    unsafe { put(flags, value | if is_primary { MAP_HOST } else { 0 }) }
}

pub unsafe fn cuCtxSetFlags(flags: u32) -> error::Result {
    if !valid_flags(flags) {
        return Err(error::INVALID_VALUE);
    }
    calls::cuCtxSetFlags(flags)?;
    let kept = flags & !(COREDUMP | USER_COREDUMP) | MAP_HOST;
    handles::set_word(green_context::owner(current()), 1, u64::from(kept));
    Ok(())
}

pub unsafe fn cuCtxGetStreamPriorityRange(
    leastPriority: *mut i32,
    greatestPriority: *mut i32,
) -> error::Result {
    let (least, greatest) = client::get()?.devices.priorities(device()?)?;
    // SAFETY: the program's pointers, which may be NULL.
    unsafe {
        if let Some(place) = leastPriority.as_mut() {
            *place = least;
        }
        if let Some(place) = greatestPriority.as_mut() {
            *place = greatest;
        }
    }
    Ok(())
}
