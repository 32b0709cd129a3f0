//! Copies of pageable memory in graphs. The host has no way to such memory: a host node before the copy has the guest bring it into a
//! window, or one after it has the guest take it from there, at each launch.
//!
//! To the program the three nodes are one. Edges to it end at the first, edges from it begin at the last, and neither is ever named.
#![allow(non_snake_case)]

use super::{
    callback::CALLBACKS,
    error::{CudaError, NOT_SUPPORTED, check},
    graph::{EdgeData, dependencies},
    graph_edges::{Edges, neighbours},
    graph_node::{HOST, MEMCPY, type_of},
    thread::Thread,
    user_object,
};
use std::{
    ffi::c_void,
    sync::atomic::{AtomicBool, Ordering},
};
use vgpu_spec::plain::Blob8;

/// Neighbours of a copy that are looked at: a helper is the only one on its side.
const FEW: usize = 64;
/// CU_GRAPH_USER_OBJECT_MOVE.
const MOVE: u32 = 1;

/// There is such a copy in some graph: nothing has to be looked for before.
static RECORDED: AtomicBool = AtomicBool::new(false);

pub fn recorded() -> bool {
    RECORDED.load(Ordering::Acquire)
}

/// Which of a copy's helpers a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Before,
    After,
}

/// The guest's callbacks of a copy; 0: none.
#[derive(Debug, Clone, Copy)]
pub struct Callbacks {
    pub before: u64,
    pub after: u64,
    /// Told when no graph has the copy any more.
    pub release: u64,
}

/// The driver's host function of both helpers: the argument is the callback's number, and in the lowest bit the role.
extern "C" fn help(argument: *mut c_void) {
    let callback = argument.addr() as u64 >> 1;
    if callback != 0 {
        CALLBACKS.run(callback, 0, true);
    }
}

fn help_address() -> u64 {
    help as extern "C" fn(*mut c_void) as usize as u64
}

fn argument(callback: u64, role: Role) -> *mut c_void {
    let bit = usize::from(role == Role::After);
    std::ptr::without_provenance_mut((callback as usize) << 1 | bit)
}

/// CUDA_HOST_NODE_PARAMS.
#[repr(C)]
struct HostNode {
    function: u64,
    argument: *mut c_void,
}

impl HostNode {
    fn new(callback: u64, role: Role) -> Self {
        HostNode { function: help_address(), argument: argument(callback, role) }
    }
}

fn host_node(t: &Thread, node: u64) -> Option<HostNode> {
    let get = t.driver.cuGraphHostNodeGetParams?;
    let mut found = HostNode { function: 0, argument: std::ptr::null_mut() };
    // SAFETY: a live node, and a place that outlives the call.
    (unsafe { get(node, (&raw mut found).cast()) } == 0).then_some(found)
}

/// The role of a helper; `None` for every other node.
pub fn role(t: &Thread, node: u64) -> Option<Role> {
    if !recorded() || type_of(t, node)? != HOST {
        return None;
    }
    let found = host_node(t, node).filter(|f| f.function == help_address())?;
    Some(if found.argument.addr() & 1 == 0 { Role::Before } else { Role::After })
}

/// The node that the program knows for `node`: of a helper, its copy.
pub fn shown(t: &Thread, node: u64) -> u64 {
    match role(t, node) {
        None => node,
        Some(role) => neighbours(t, node, role == Role::Before)
            .ok()
            .and_then(|found| found.nodes.first().copied())
            .unwrap_or(node),
    }
}

/// A copy's helper of this role.
pub fn helper(t: &Thread, copy: u64, wanted: Role) -> Option<u64> {
    if !recorded() || type_of(t, copy)? != MEMCPY {
        return None;
    }
    let found = neighbours(t, copy, wanted == Role::After).ok()?;
    found.nodes.into_iter().take(FEW).find(|&n| role(t, n) == Some(wanted))
}

impl Thread {
    /// Where edges to a node of the program's end.
    pub fn first_node(&self, number: u64) -> Result<u64, CudaError> {
        let node = self.graphnode(number)?;
        Ok(helper(self, node, Role::Before).unwrap_or(node))
    }

    /// Where edges from a node of the program's begin.
    pub fn last_node(&self, number: u64) -> Result<u64, CudaError> {
        let node = self.graphnode(number)?;
        Ok(helper(self, node, Role::After).unwrap_or(node))
    }
}

/// A copy's helpers.
pub fn helpers(t: &Thread, copy: u64) -> Vec<u64> {
    [Role::Before, Role::After].into_iter().filter_map(|role| helper(t, copy, role)).collect()
}

/// Has the graph keep what the copy's callbacks need until it and all that is made of it are gone.
fn retain(t: &Thread, graph: u64, release: u64) {
    if release == 0 {
        return;
    }
    let kept = user_object::create(t, release, 1, 1).and_then(|object| {
        let retain = t.driver.cuGraphRetainUserObject.ok_or(NOT_SUPPORTED)?;
        // SAFETY: a live graph of this client, and the object just made, whose only reference goes over to the graph.
        check(unsafe { retain(graph, object, 1, MOVE) })
    });
    if let Err(CudaError(status)) = kept {
        tracing::warn!(
            status,
            "a graph's copy of pageable memory keeps its shared memory until the program ends"
        );
    }
}

/// The graph that a stream captures; 0 if it does not.
fn captured_graph(t: &Thread, stream: u64) -> u64 {
    let Some(ask) = t.driver.cuStreamGetCaptureInfo_v2 else { return 0 };
    let (mut status, mut graph) = (0, 0_u64);
    let null = std::ptr::null_mut();
    // SAFETY: a live stream, places that outlive the call, and NULL for what is not wanted.
    unsafe {
        ask(stream, &raw mut status, std::ptr::null_mut(), &raw mut graph, null, std::ptr::null_mut());
    }
    if status == 0 { 0 } else { graph }
}

pub fn vgpuCapturePageableCopy(
    t: &mut Thread,
    stream: u64,
    copy: Option<Vec<Blob8<200>>>,
    before: u64,
    after: u64,
    release: u64,
) -> Result<(), CudaError> {
    let launch = t.driver.cuLaunchHostFunc.ok_or(NOT_SUPPORTED)?;
    let run = t.driver.cuMemcpy3DAsync_v2.ok_or(NOT_SUPPORTED)?;
    let copy = t.checked_copy(copy, false)?;
    RECORDED.store(true, Ordering::Release);
    let graph = captured_graph(t, stream);
    let help = |callback: u64, role: Role| match callback {
        0 => Ok(()),
        // SAFETY: a live stream of this client; the function takes any argument.
        _ => check(unsafe { launch(stream, help_address(), argument(callback, role)) }),
    };
    help(before, Role::Before)?;
    // SAFETY: the description outlives the call; host sides lie in windows of this client, the driver checks device sides.
    check(unsafe { run((&raw const copy).cast(), stream) })?;
    help(after, Role::After)?;
    if graph != 0 {
        retain(t, graph, release);
    } else if release != 0 {
        // Not captured after all: done once, in order.
        // SAFETY: as above.
        check(unsafe { launch(stream, help_address(), argument(release, Role::After)) })?;
    }
    Ok(())
}

fn add_helper(t: &Thread, graph: u64, after: &[u64], callback: u64, role: Role) -> Result<u64, CudaError> {
    let add = t.driver.cuGraphAddHostNode.ok_or(NOT_SUPPORTED)?;
    let wanted = HostNode::new(callback, role);
    let mut node = 0_u64;
    // SAFETY: live handles of this client; the parameters outlive the call, which copies them.
    check(unsafe { add(&raw mut node, graph, after.as_ptr(), after.len(), (&raw const wanted).cast()) })?;
    Ok(node)
}

/// Takes a node just made, of which no number is known, out of its graph.
fn discard(t: &Thread, node: u64) {
    if let Some(destroy) = t.driver.cuGraphDestroyNode {
        // SAFETY: a node that only this call knows.
        unsafe { destroy(node) };
    }
}

/// Adds a copy with its helpers; `add` adds the copy itself.
pub fn add(
    t: &Thread,
    graph: u64,
    after: Option<&Vec<u64>>,
    n: usize,
    callbacks: Callbacks,
    add: impl Fn(*const u64, usize) -> Result<u64, CudaError>,
) -> Result<u64, CudaError> {
    let (list, n) = dependencies(after, n)?;
    if callbacks.before == 0 && callbacks.after == 0 {
        return add(list, n);
    }
    RECORDED.store(true, Ordering::Release);
    let list = after.and_then(|a| a.get(..n)).unwrap_or_default();
    let before = match callbacks.before {
        0 => None,
        callback => Some(add_helper(t, graph, list, callback, Role::Before)?),
    };
    let list = before.as_ref().map_or(list, std::slice::from_ref);
    let copy = add(list.as_ptr(), list.len())
        .inspect_err(|_| before.into_iter().for_each(|node| discard(t, node)))?;
    if callbacks.after != 0 {
        add_helper(t, graph, &[copy], callbacks.after, Role::After).inspect_err(|_| {
            discard(t, copy);
            before.into_iter().for_each(|node| discard(t, node));
        })?;
    }
    retain(t, graph, callbacks.release);
    Ok(copy)
}

/// Makes the helpers that a copy is to have and has not. They do nothing until [`set`] gives them their callbacks.
///
/// # Errors
/// CUDA_ERROR_NOT_SUPPORTED for an executable graph, which has the nodes that it was made with.
pub fn make_helpers(t: &Thread, exec: u64, copy: u64, callbacks: Callbacks) -> Result<(), CudaError> {
    for (role, callback) in [(Role::Before, callbacks.before), (Role::After, callbacks.after)] {
        if callback == 0 || helper(t, copy, role).is_some() {
            continue;
        }
        if exec != 0 {
            return Err(NOT_SUPPORTED);
        }
        insert_helper(t, copy, role)?;
    }
    Ok(())
}

/// Puts a helper between a copy and its neighbours on one side.
fn insert_helper(t: &Thread, copy: u64, role: Role) -> Result<(), CudaError> {
    let graph = t.graph_of(copy);
    RECORDED.store(true, Ordering::Release);
    let others = neighbours(t, copy, role == Role::After)?;
    let helper = add_helper(t, graph, &[], 0, role)?;
    let edges = |far: Vec<u64>, near: Vec<u64>, data: Vec<EdgeData>| match role {
        Role::Before => Edges { from: far, to: near, data },
        Role::After => Edges { from: near, to: far, data },
    };
    let count = others.nodes.len();
    let outer = edges(others.nodes.clone(), vec![helper; count], others.data.clone());
    let inner = edges(vec![helper], vec![copy], vec![EdgeData::default()]);
    let old = edges(others.nodes, vec![copy; count], others.data);
    // New edges first: should the old ones stay, the order is still right.
    if let Err(error) = outer.add(t, graph).and_then(|()| inner.add(t, graph)) {
        discard(t, helper);
        return Err(error);
    }
    old.remove(t, graph)
}

/// Has a copy's helpers call these callbacks from now on; `exec` 0: in the graph itself.
pub fn set(t: &Thread, exec: u64, copy: u64, callbacks: Callbacks) -> Result<(), CudaError> {
    for (role, callback) in [(Role::Before, callbacks.before), (Role::After, callbacks.after)] {
        if let Some(helper) = helper(t, copy, role) {
            set_helper(t, exec, helper, &HostNode::new(callback, role))?;
        }
    }
    if exec == 0 {
        retain(t, t.graph_of(copy), callbacks.release);
    }
    Ok(())
}

fn set_helper(t: &Thread, exec: u64, helper: u64, wanted: &HostNode) -> Result<(), CudaError> {
    let place = std::ptr::from_ref(wanted).cast();
    if exec == 0 {
        let set = t.driver.cuGraphHostNodeSetParams.ok_or(NOT_SUPPORTED)?;
        // SAFETY: a live node; the parameters outlive the call, which copies them.
        check(unsafe { set(helper, place) })
    } else {
        let set = t.driver.cuGraphExecHostNodeSetParams.ok_or(NOT_SUPPORTED)?;
        // SAFETY: as above.
        check(unsafe { set(exec, helper, place) })
    }
}

/// A copy that is switched off moves nothing: neither do its helpers.
pub fn cuGraphNodeSetEnabled(t: &mut Thread, exec: u64, node: u64, enabled: u32) -> Result<(), CudaError> {
    let set = t.driver.cuGraphNodeSetEnabled.ok_or(NOT_SUPPORTED)?;
    // SAFETY: live handles of this client.
    check(unsafe { set(exec, node, enabled) })?;
    for role in [Role::Before, Role::After] {
        let Some(helper) = helper(t, node, role) else { continue };
        let wanted = match enabled {
            0 => HostNode::new(0, role),
            _ => host_node(t, helper).ok_or(NOT_SUPPORTED)?,
        };
        set_helper(t, exec, helper, &wanted)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_helpers_argument_tells_its_callback_and_role() {
        assert_eq!(argument(5, Role::Before).addr(), 10);
        assert_eq!(argument(5, Role::After).addr(), 11);
    }
}
