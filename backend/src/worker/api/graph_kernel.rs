//! Kernel nodes of graphs. Parameters travel as one buffer, laid out as the driver says.
#![allow(non_snake_case)]

use super::{
    batch::Launch,
    dispatch::cut,
    error::{CudaError, INVALID_VALUE, NOT_SUPPORTED, check},
    graph::dependencies,
    kernel::{layout, places},
    launch::{BUFFER_POINTER, BUFFER_SIZE, END, Extra},
    thread::Thread,
};
use std::{
    ffi::{CStr, c_char, c_void},
    ptr::null_mut,
};

/// The most parameters of a kernel: each is a byte at least, and 32764 bytes are the most; more than a thousand are not met.
const MAX_PARAMETERS: usize = 4096;
/// The largest parameter area of a kernel.
const MAX_SIZE: usize = 32764;

/// CUDA_KERNEL_NODE_PARAMS (v2).
#[repr(C)]
pub struct KernelNode {
    function: u64,
    shape: [u32; 7],
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
    kernel: u64,
    context: u64,
}

impl KernelNode {
    /// A launch's, in the current context, with its parameters as a buffer. `extra` and `bytes` must stay until the driver has copied them.
    pub fn with_buffer(launch: &Launch, extra: &mut Extra, bytes: &[u8]) -> Self {
        let (function, kernel) = launch.callable;
        // Without parameters there is no list either: not every driver takes an empty buffer.
        let extra = if bytes.is_empty() { null_mut() } else { extra.point(bytes) };
        KernelNode { function, shape: launch.shape, parameters: null_mut(), extra, kernel, context: 0 }
    }
}

/// What a number that can be launched is to the driver: (function, kernel), one of them 0.
fn callable(t: &Thread, number: u64) -> Result<(u64, u64), CudaError> {
    t.callable(number).map(|real| t.function_or_kernel(real))
}

/// Offset and size of each parameter.
fn layout_of(t: &Thread, function: u64, kernel: u64) -> Result<Vec<(usize, usize)>, CudaError> {
    let (ask, real) = match function {
        0 => (t.driver.cuKernelGetParamInfo, kernel),
        _ => (t.driver.cuFuncGetParamInfo, function),
    };
    let ask = ask.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live function or kernel, and places that outlive the call.
    places(MAX_PARAMETERS, |i, offset, size| unsafe { ask(real, i, offset, size) })
}

/// A kernel's parameters, and the pointers to them that the driver takes.
pub struct ParameterList {
    _buffer: Vec<u64>,
    pointers: Vec<*mut c_void>,
}

impl ParameterList {
    /// # Errors
    /// CUDA_ERROR_INVALID_VALUE if the kernel has more parameters than `bytes`.
    pub fn new(t: &Thread, (function, kernel): (u64, u64), bytes: &[u8]) -> Result<Self, CudaError> {
        // Words, so that the buffer has the alignment of any parameter that the driver may want to read.
        let mut buffer = vec![0_u64; bytes.len().div_ceil(8)];
        vgpu_spec::plain::fill(&mut buffer, bytes);
        let start = buffer.as_mut_ptr().cast::<u8>();
        let mut pointers = Vec::new();
        for (offset, size) in layout_of(t, function, kernel)? {
            if offset.checked_add(size).is_none_or(|end| end > bytes.len()) {
                return Err(INVALID_VALUE);
            }
            pointers.push(start.wrapping_add(offset).cast::<c_void>());
        }
        Ok(ParameterList { _buffer: buffer, pointers })
    }

    /// The list for the driver, valid as long as `self`; NULL for a kernel without parameters.
    pub fn as_mut_ptr(&mut self) -> *mut *mut c_void {
        if self.pointers.is_empty() { null_mut() } else { self.pointers.as_mut_ptr() }
    }
}

/// A node's parameters as the driver takes them. Not moved while it uses them.
struct Prepared {
    node: KernelNode,
    _list: ParameterList,
}

fn prepare(
    t: &Thread,
    function: u64,
    shape: Option<&Vec<u32>>,
    bytes: Option<&[u8]>,
    n: usize,
    ctx: u64,
) -> Result<Prepared, CudaError> {
    let (function, kernel) = callable(t, function)?;
    let shape = shape.and_then(|s| <[u32; 7]>::try_from(s.as_slice()).ok()).ok_or(INVALID_VALUE)?;
    let bytes = bytes.unwrap_or_default();
    if bytes.len() != n || n > MAX_SIZE {
        return Err(INVALID_VALUE);
    }
    let mut list = ParameterList::new(t, (function, kernel), bytes)?;
    let parameters = list.as_mut_ptr();
    let context = if ctx == 0 { 0 } else { t.context(ctx)? };
    let node = KernelNode { function, shape, parameters, extra: null_mut(), kernel, context };
    Ok(Prepared { node, _list: list })
}

#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuGraphAddKernelNode(
    t: &mut Thread,
    graph: u64,
    after: Option<Vec<u64>>,
    count: usize,
    function: u64,
    shape: Option<Vec<u32>>,
    parameters: Option<&[u8]>,
    n: usize,
    ctx: u64,
) -> Result<u64, CudaError> {
    let add = t.driver.cuGraphAddKernelNode_v2.ok_or(NOT_SUPPORTED)?;
    let prepared = prepare(t, function, shape.as_ref(), parameters, n, ctx)?;
    let (after, count) = dependencies(after.as_ref(), count)?;
    let mut node = 0_u64;
    // SAFETY: live handles of this client; the parameters are private copies as long as the driver's layout says, and it copies them.
    check(unsafe { add(&raw mut node, graph, after, count, (&raw const prepared.node).cast()) })?;
    t.number_graphnode(node, graph)
}

#[allow(clippy::too_many_arguments)] // the message's parameters
pub fn vgpuGraphKernelNodeSetParams(
    t: &mut Thread,
    exec: u64,
    node: u64,
    function: u64,
    shape: Option<Vec<u32>>,
    parameters: Option<&[u8]>,
    n: usize,
    ctx: u64,
) -> Result<(), CudaError> {
    let prepared = prepare(t, function, shape.as_ref(), parameters, n, ctx)?;
    let place = (&raw const prepared.node).cast();
    match t.optional_exec(exec)? {
        0 => {
            let set = t.driver.cuGraphKernelNodeSetParams_v2.ok_or(NOT_SUPPORTED)?;
            // SAFETY: as above.
            check(unsafe { set(node, place) })
        }
        exec => {
            let set = t.driver.cuGraphExecKernelNodeSetParams_v2.ok_or(NOT_SUPPORTED)?;
            // SAFETY: as above.
            check(unsafe { set(exec, node, place) })
        }
    }
}

/// Function, kernel, context, shape, parameters and their length.
type Parameters = (u64, u64, u64, Vec<u32>, Vec<u8>, usize);

pub fn vgpuGraphKernelNodeGetParams(
    t: &mut Thread,
    node: u64,
    _: usize,
    room: usize,
    _: usize,
) -> Result<Parameters, CudaError> {
    let get = t.driver.cuGraphKernelNodeGetParams_v2.ok_or(NOT_SUPPORTED)?;
    const { assert!(size_of::<KernelNode>() == 72) };
    let mut found = KernelNode {
        function: 0,
        shape: [0; 7],
        parameters: null_mut(),
        extra: null_mut(),
        kernel: 0,
        context: 0,
    };
    // SAFETY: a live node, and a place that outlives the call.
    check(unsafe { get(node, (&raw mut found).cast()) })?;
    let bytes = if found.extra.is_null() {
        let layout = layout_of(t, found.function, found.kernel)?;
        // SAFETY: the driver's own list, one pointer per parameter of the kernel, valid until the node changes.
        unsafe { gather(found.parameters, &layout) }?
    } else {
        // SAFETY: the driver's own list, valid until the node changes.
        unsafe { extra_bytes(found.extra) }?
    };
    let len = bytes.len();
    let function = match found.function {
        0 => 0,
        real if t.known_function(real).is_some() => t.number_function(real)?,
        real => match kernel_of(t, real) {
            Some(kernel) => {
                found.kernel = kernel;
                0
            }
            None => t.number_function(real)?,
        },
    };
    let kernel = if found.kernel == 0 { 0 } else { t.number_kernel(found.kernel)? };
    let context = t.number_context(found.context);
    Ok((function, kernel, context, found.shape.to_vec(), cut(bytes, room), len))
}

/// The kernel whose function this is. A program that launches kernels does not know their functions.
fn kernel_of(t: &Thread, function: u64) -> Option<u64> {
    let (name_of, kernel_name, function_of) =
        (t.driver.cuFuncGetName?, t.driver.cuKernelGetName?, t.driver.cuKernelGetFunction?);
    let text = |get: unsafe extern "C" fn(*mut *mut c_void, u64) -> u32, handle: u64| {
        let mut text: *mut c_void = null_mut();
        // SAFETY: a live function or kernel, and a place that outlives the call.
        let found = unsafe { get(&raw mut text, handle) } == 0 && !text.is_null();
        // SAFETY: the driver's NUL-terminated string, valid while the function is loaded.
        found.then(|| unsafe { CStr::from_ptr(text.cast::<c_char>()) })
    };
    let name = text(name_of, function)?;
    // By name first: asking for a kernel's function may load it.
    t.kernels().into_iter().filter(|&kernel| text(kernel_name, kernel) == Some(name)).find(|&kernel| {
        let mut its = 0_u64;
        // SAFETY: a live kernel, and a place that outlives the call.
        unsafe { function_of(&raw mut its, kernel) == 0 && its == function }
    })
}

/// # Safety
/// `list` has a pointer for each parameter of `layout`, to as many bytes.
unsafe fn gather(list: *mut *mut c_void, layout: &[(usize, usize)]) -> Result<Vec<u8>, CudaError> {
    let len = layout.iter().map(|&(offset, size)| offset.saturating_add(size)).max().unwrap_or(0);
    if len > MAX_SIZE || (list.is_null() && len > 0) {
        return Err(INVALID_VALUE);
    }
    let mut bytes = vec![0; len];
    for (i, &(offset, size)) in layout.iter().enumerate() {
        let place = bytes.get_mut(offset..offset + size).ok_or(INVALID_VALUE)?;
        // SAFETY: the caller's promise; `place` is as long as the parameter.
        unsafe { std::ptr::copy_nonoverlapping(list.add(i).read().cast::<u8>(), place.as_mut_ptr(), size) };
    }
    Ok(bytes)
}

/// The buffer of an `extra` list.
///
/// # Safety
/// The list is well formed and ends.
unsafe fn extra_bytes(extra: *mut *mut c_void) -> Result<Vec<u8>, CudaError> {
    let (mut data, mut size) = (std::ptr::null::<u8>(), 0_usize);
    for i in 0..4 {
        // SAFETY: the caller's promise; the end was not reached yet.
        let name = unsafe { extra.add(2 * i).read() }.addr();
        if name == END {
            break;
        }
        // SAFETY: a name has a value, and that of the size points to it.
        unsafe {
            let value = extra.add(2 * i + 1).read();
            match name {
                BUFFER_POINTER => data = value.cast(),
                BUFFER_SIZE if !value.is_null() => size = value.cast::<usize>().read(),
                _ => return Err(INVALID_VALUE),
            }
        }
    }
    if size > MAX_SIZE || (data.is_null() && size > 0) {
        return Err(INVALID_VALUE);
    }
    let mut bytes = vec![0; size];
    // SAFETY: the driver's buffer is as long as it says.
    unsafe { std::ptr::copy_nonoverlapping(data, bytes.as_mut_ptr(), size) };
    Ok(bytes)
}

/// Name and layout of a function or kernel that the guest did not ask for by name, or of a kernel that gave no layout at first.
pub fn vgpuDescribeCallable(
    t: &mut Thread,
    number: u64,
    name_room: usize,
    _: usize,
    room: usize,
    _: usize,
) -> Result<(Vec<u8>, Vec<u8>, u64), CudaError> {
    let (function, kernel) = callable(t, number)?;
    let (ask, names, real) = match function {
        0 => (t.driver.cuKernelGetParamInfo, t.driver.cuKernelGetName, kernel),
        _ => (t.driver.cuFuncGetParamInfo, t.driver.cuFuncGetName, function),
    };
    let ask = ask.ok_or(NOT_SUPPORTED)?;
    // SAFETY: a live function or kernel, and places that outlive the call.
    let (layout, len) = layout(room, |i, offset, size| unsafe { ask(real, i, offset, size) })?;
    let mut text: *mut c_void = null_mut();
    // SAFETY: as above.
    let named = names.is_some_and(|get| unsafe { get(&raw mut text, real) } == 0) && !text.is_null();
    let name = if named {
        // SAFETY: the driver's NUL-terminated string, valid while the function is loaded.
        unsafe { CStr::from_ptr(text.cast::<c_char>()) }.to_bytes_with_nul().to_vec()
    } else {
        vec![0]
    };
    let name = if name.len() > name_room { vec![0] } else { name };
    Ok((name, layout, len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_come_back_from_a_list_and_from_a_buffer() {
        let (mut a, mut b) = (0x0102_u16, 0x0304_0506_u32);
        let mut list = [(&raw mut a).cast::<c_void>(), (&raw mut b).cast::<c_void>()];
        // SAFETY: a list of two parameters of the sizes given.
        let bytes = unsafe { gather(list.as_mut_ptr(), &[(0, 2), (4, 4)]) }.unwrap();
        assert_eq!(bytes, [2, 1, 0, 0, 6, 5, 4, 3]);
        let mut size = bytes.len();
        let name = |n: usize| std::ptr::without_provenance_mut::<c_void>(n);
        let mut extra = [name(2), (&raw mut size).cast(), name(1), bytes.as_ptr().cast_mut().cast(), name(0)];
        // SAFETY: a well-formed list.
        assert_eq!(unsafe { extra_bytes(extra.as_mut_ptr()) }, Ok(bytes));
        // SAFETY: nothing is read through NULL.
        assert_eq!(unsafe { gather(null_mut(), &[(0, 4)]) }, Err(INVALID_VALUE));
    }
}
