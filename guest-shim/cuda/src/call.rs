//! How a call enters the shim, and how a message leaves it.

use crate::{
    client, context, error, handles, output,
    trace::{self, Site},
    unsupported,
};
use std::{
    ffi::{CStr, c_char},
    panic::{AssertUnwindSafe, catch_unwind},
    slice,
};
use vgpu_client::LaneError;
use vgpu_spec::{
    plain::Plain,
    wire::args::{Reader, Writer, bytes_len},
};

/// Runs an exported function's body. Nothing unwinds into the program. `arguments` is asked for when calls are traced.
#[inline]
pub fn enter<A: AsRef<[u64]>>(
    site: &'static Site,
    needs_context: bool,
    arguments: impl FnOnce() -> A,
    body: impl FnOnce() -> error::Result,
) -> u32 {
    vgpu_client::record::call(site.name);
    let began = trace::begin();
    let checked = || {
        if needs_context {
            context::require()?;
        }
        body()
    };
    let status = match catch_unwind(AssertUnwindSafe(checked)) {
        Ok(Ok(())) => 0,
        Ok(Err(status)) => failed(site, status),
        Err(_) => failed(site, error::UNKNOWN),
    };
    if let Some(began) = began {
        trace::end(began, site, arguments().as_ref(), status);
    }
    status
}

#[cold]
fn failed(site: &'static Site, status: u32) -> u32 {
    if site.refuses(status) {
        unsupported::note(site.name, site.reason);
    }
    crate::logs::returned(site.name, status);
    status
}

/// What a forked child is told of a call with good handles: a child has no lane. 0 only for what asks for no work, as nothing is pending
/// in a process that cannot give the device any; natively a child's work is done.
#[cold]
pub fn in_child(code: u32) -> error::Result {
    if code == 0 { Ok(()) } else { Err(code) }
}

/// Sends a message that nobody waits for; `in_context`: the worker is to run it in the current context. With CUDA_LAUNCH_BLOCKING=1 it is waited for, and its error returned at once.
#[inline]
pub fn post(
    function: u32,
    in_context: bool,
    args_len: usize,
    write: impl FnOnce(&mut Writer<'_>),
) -> error::Result {
    let client = client::get()?;
    if client.blocking {
        return post_and_wait(function, in_context, args_len, write);
    }
    let context = if in_context { context::index() } else { 0 };
    flatten(client.lanes.with(|lane| lane.post(function, context, args_len, write)))
}

/// As [`post`], for a call that touches nothing but `stream`: it does not wait for what other threads launch into other streams.
#[inline]
pub fn post_in_stream(
    stream: u64,
    function: u32,
    in_context: bool,
    args_len: usize,
    write: impl FnOnce(&mut Writer<'_>),
) -> error::Result {
    let client = client::get()?;
    // What the special streams are depends on thread and context.
    if stream <= handles::SPECIAL_STREAMS || client.blocking {
        return post(function, in_context, args_len, write);
    }
    let context = if in_context { context::index() } else { 0 };
    flatten(client.lanes.with(|lane| lane.post_launch(function, context, stream, args_len, write)))
}

/// Waits for a message without a reply; its error is the lane's latest.
#[cold]
fn post_and_wait(
    function: u32,
    in_context: bool,
    args_len: usize,
    write: impl FnOnce(&mut Writer<'_>),
) -> error::Result {
    let context = if in_context { context::index() } else { 0 };
    let _errors = own_errors();
    let sent = client::get()?.lanes.with(|lane| {
        let mut message = lane.begin(function, context, args_len, None)?;
        write(&mut message);
        message.submit_and_wait()?;
        Ok(lane.take_error())
    });
    match flatten(sent)? {
        None => Ok(()),
        Some((status, _)) => Err(status),
    }
}

/// Sends a message and waits for its reply, which `read` takes apart. With `reports`, the error of an earlier asynchronous call is
/// returned if this call has none.
pub fn request(
    function: u32,
    in_context: bool,
    reports: bool,
    args_len: usize,
    reply_len: usize,
    write: impl FnOnce(&mut Writer<'_>),
    read: impl FnOnce(&mut Reader<'_>) -> Option<()>,
) -> error::Result {
    let client = client::get()?;
    let context = if in_context { context::index() } else { 0 };
    let answer = client.lanes.with(|lane| {
        let reply = lane.exchange(function, context, args_len, reply_len, write)?;
        let (status, flags) = (reply.status, reply.flags);
        let complete = status != 0 || read(&mut reply.reader()).is_some();
        let earlier = if reports { lane.take_any_error() } else { None };
        Ok((status, flags, complete, earlier))
    });
    let (status, flags, complete, earlier) = flatten(answer)?;
    if flags & vgpu_spec::wire::lane::reply_flags::OUTPUT != 0 {
        output::fetch();
    }
    match (status, earlier) {
        (0, Some((earlier, id))) => {
            vgpu_client::info!("{} failed earlier: error {earlier}", crate::proc_address::name(id));
            Err(earlier)
        }
        (0, None) if complete => Ok(()),
        (0, None) => {
            vgpu_client::error!(
                "reading the reply of {}: it is too short",
                crate::proc_address::name(function)
            );
            Err(error::UNKNOWN)
        }
        (status, _) => Err(status),
    }
}

fn flatten<T>(result: Result<Result<T, LaneError>, LaneError>) -> error::Result<T> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(e)) | Err(e) => Err(error::lane(&e)),
    }
}

/// What stream 0 means in a `_ptsz` symbol.
#[inline]
pub fn per_thread(stream: u64) -> u64 {
    if stream == 0 { handles::PER_THREAD } else { stream }
}

/// Bytes of an array on the wire, which may be NULL.
#[inline]
pub fn padded_slice<T>(values: Option<&[T]>) -> usize {
    bytes_len(values.map_or(0, size_of_val))
}

/// A string argument.
///
/// # Safety
/// `text` is NULL or NUL-terminated, for the life of the call.
pub unsafe fn text<'a>(text: *const c_char) -> Option<&'a CStr> {
    // SAFETY: the caller's promise.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) })
}

/// An array argument that is read.
///
/// # Safety
/// `values` is NULL or points to `count` values, for the life of the call.
pub unsafe fn slice<'a, T: Plain>(values: *const T, count: usize) -> Option<&'a [T]> {
    // SAFETY: the caller's promise; the length is one that a slice can have.
    fits::<T>(values, count).then(|| unsafe { slice::from_raw_parts(values, count) })
}

/// An array argument that is written.
///
/// # Safety
/// `values` is NULL or points to room for `count` values, for the life of the call.
pub unsafe fn slice_mut<'a, T: Plain>(values: *mut T, count: usize) -> Option<&'a mut [T]> {
    // SAFETY: the caller's promise; the length is one that a slice can have.
    fits::<T>(values, count).then(|| unsafe { slice::from_raw_parts_mut(values, count) })
}

/// Whether this can be an array: programs give any length.
fn fits<T>(values: *const T, count: usize) -> bool {
    let len = count.checked_mul(size_of::<T>());
    !values.is_null() && len.is_some_and(|len| isize::try_from(len).is_ok())
}

/// Writes one result of a call, where NULL is an error.
///
/// # Safety
/// `place` is NULL or valid for a write.
pub unsafe fn put<T>(place: *mut T, value: T) -> error::Result {
    if place.is_null() {
        return Err(error::INVALID_VALUE);
    }
    // SAFETY: the caller's promise.
    unsafe { place.write(value) };
    Ok(())
}

/// While it lives, no other thread gets the errors of this thread's messages: they are those of the call that it is in.
pub struct OwnErrors {
    /// Without a lane there are no messages.
    there: bool,
}

/// From now on.
pub fn own_errors() -> OwnErrors {
    OwnErrors { there: mark_own_errors(true) }
}

impl Drop for OwnErrors {
    fn drop(&mut self) {
        if self.there {
            mark_own_errors(false);
        }
    }
}

fn mark_own_errors(begins: bool) -> bool {
    client::get().is_ok_and(|client| client.lanes.with(|lane| lane.own_errors(begins)).is_ok())
}

/// Waits until this thread's messages are used, and returns the error of one that failed.
pub fn settle() -> error::Result {
    let client = client::get()?;
    let _errors = own_errors();
    let settled = client.lanes.with(|lane| {
        let issued = lane.lane().issued();
        lane.lane().wait(issued)?;
        Ok(lane.take_error())
    });
    match flatten(settled)? {
        None => Ok(()),
        Some((status, _)) => Err(status),
    }
}

/// The error of a message of this thread that has failed since the last look, and the message's function. It waits for nothing.
pub fn take_error() -> error::Result<Option<(u32, u32)>> {
    let client = client::get()?;
    flatten(client.lanes.with(|lane| Ok(lane.take_error())))
}

/// Functions of the API's first version, with 32-bit sizes: they want a context of that version, which no 64-bit process can have.
macro_rules! only_in_old_contexts {
    ($($name:ident($($t:ty),*);)*) => {$(
        pub unsafe fn $name($(_: $t),*) -> crate::error::Result {
            Err(crate::error::INVALID_CONTEXT)
        }
    )*};
}
pub(crate) use only_in_old_contexts;
