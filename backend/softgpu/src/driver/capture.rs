//! Stream capture.

use std::cell::Cell;

use super::{Out, put, put_if_wanted};
use crate::model::CudaError;
use crate::model::graph;
use crate::model::special_stream;
use crate::model::stream::Order;

/// `CUstreamCaptureMode`: 0 to 2. Kept and given back; nothing is forbidden by it here.
const LAST_MODE: u32 = 2;

thread_local! {
    static MODE: Cell<u32> = const { Cell::new(0) };
}

driver_api! {
    /// Exchanges the calling thread's mode.
    fn cuThreadExchangeStreamCaptureMode(mode: Option<&mut u32>) {
        let mode = mode.ok_or(CudaError::InvalidValue)?;
        if *mode > LAST_MODE {
            return Err(CudaError::InvalidValue);
        }
        *mode = MODE.replace(*mode);
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
        graph::begin(&stream)
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
        put(status, stream.capture().map_or(0, |capture| capture.status()))
    }

    /// The same with the capture's number and graph. What the next work comes after is not told: its count is 0.
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
        put_if_wanted(dependencies, std::ptr::null());
        put_if_wanted(count, 0);
        Ok(())
    }
}
