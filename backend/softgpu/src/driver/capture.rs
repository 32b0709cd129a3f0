//! Stream capture.

use std::cell::RefCell;

use super::graph::graph as graph_at;
use super::{Out, array_at, put, put_if_wanted};
use crate::model::graph;
use crate::model::special_stream::{self, DefaultStream};
use crate::model::stream::Order;
use crate::model::{CudaError, Result};

/// `CUstreamCaptureMode`: 0 to 2.
const LAST_MODE: u32 = 2;

thread_local! {
    /// What the thread was told last.
    static AFTER: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

fn update(default: DefaultStream, stream: u64, nodes: *const u64, count: usize, flags: u32) -> Result {
    let (_, stream) = special_stream::find(stream, default)?;
    if flags > 1 {
        return Err(CudaError::InvalidValue);
    }
    // SAFETY: the caller of the exported function answers for the array.
    graph::update(&stream, unsafe { array_at(nodes, count) }?, flags == 0)
}

driver_api! {
    /// Exchanges the calling thread's mode.
    fn cuThreadExchangeStreamCaptureMode(mode: Option<&mut u32>) {
        let mode = mode.ok_or(CudaError::InvalidValue)?;
        if *mode > LAST_MODE {
            return Err(CudaError::InvalidValue);
        }
        *mode = graph::exchange_mode(*mode);
        Ok(())
    }
}

stream_api! {
    /// Begins a capture. The legacy default stream cannot.
    fn cuStreamBeginCapture_v2 | cuStreamBeginCapture_v2_ptsz(default; stream: u64, mode: u32) {
        let (_, stream) = special_stream::find(stream, default)?;
        if mode > LAST_MODE {
            return Err(CudaError::InvalidValue);
        }
        if stream.order() == Order::Legacy {
            return Err(CudaError::StreamCaptureUnsupported);
        }
        graph::begin(&stream, mode)
    }

    /// Begins a capture whose work goes to a graph that is there, after nodes of it.
    fn cuStreamBeginCaptureToGraph | cuStreamBeginCaptureToGraph_ptsz(
        default; stream: u64, to: u64, dependencies: *const u64, data: *const u64, count: usize, mode: u32
    ) {
        let (_, stream) = special_stream::find(stream, default)?;
        // SAFETY: the caller answers for the arrays.
        let (after, data) = unsafe { (array_at(dependencies, count)?, data.as_ref()) };
        if mode > LAST_MODE {
            return Err(CudaError::InvalidValue);
        }
        if stream.order() == Order::Legacy {
            return Err(CudaError::StreamCaptureUnsupported);
        }
        if data.is_some_and(|first| count > 0 && *first != 0) {
            return Err(CudaError::NotSupported);
        }
        graph::begin_in(&stream, mode, Some((graph_at(to)?, after)))
    }

    /// Changes what the next work comes after: flags 0 add, 1 replace.
    fn cuStreamUpdateCaptureDependencies | cuStreamUpdateCaptureDependencies_ptsz(
        default; stream: u64, dependencies: *const u64, count: usize, flags: u32
    ) {
        update(default, stream, dependencies, count, flags)
    }

    /// The same; only ordinary edges.
    fn cuStreamUpdateCaptureDependencies_v2 | cuStreamUpdateCaptureDependencies_v2_ptsz(
        default; stream: u64, dependencies: *const u64, data: *const u64, count: usize, flags: u32
    ) {
        if count > 0 && !data.is_null() {
            return Err(CudaError::NotSupported);
        }
        update(default, stream, dependencies, count, flags)
    }

    /// Ends a capture and gives its graph.
    fn cuStreamEndCapture | cuStreamEndCapture_ptsz(default; stream: u64, graph: Out<'_, u64>) {
        let (_, stream) = special_stream::find(stream, default)?;
        let out = graph.ok_or(CudaError::InvalidValue)?;
        out.write(0);
        let graph = graph::end(&stream)?;
        out.write(graph.handle());
        Ok(())
    }

    /// Whether the stream captures.
    fn cuStreamIsCapturing | cuStreamIsCapturing_ptsz(default; stream: u64, status: Out<'_, u32>) {
        let (_, stream) = special_stream::find(stream, default)?;
        graph::check_legacy(&stream)?;
        put(status, stream.capture().map_or(0, |capture| capture.status()))
    }

    /// The same with the capture's number and graph, and what the next work comes after: an array that lives until the thread asks again.
    fn cuStreamGetCaptureInfo_v2 | cuStreamGetCaptureInfo_v2_ptsz(
        default; stream: u64, status: Out<'_, u32>, id: Out<'_, u64>, graph: Out<'_, u64>,
        dependencies: Out<'_, *const u64>, count: Out<'_, usize>
    ) {
        let (_, stream) = special_stream::find(stream, default)?;
        let Some(capture) = stream.capture() else { return put(status, 0) };
        if dependencies.is_some() && !capture.after.is_empty() && count.is_none() {
            return Err(CudaError::InvalidValue);
        }
        put(status, capture.status())?;
        put_if_wanted(id, capture.id);
        put_if_wanted(graph, capture.graph.handle());
        put_if_wanted(count, capture.after.len());
        AFTER.with_borrow_mut(|kept| {
            *kept = capture.after;
            put_if_wanted(dependencies, kept.as_ptr());
        });
        Ok(())
    }
}
