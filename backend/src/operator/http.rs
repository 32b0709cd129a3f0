//! Serves the metrics: as much of HTTP/1.1 as a scraper needs.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connections::Connections;
use super::metrics;
use super::server::File;
use crate::broker::BrokerError;
use crate::broker::socket::listen;
use crate::broker::status::status;
use crate::broker::vms::Vms;
use crate::config::MetricsAddress;

/// Scrapes at once.
const MAX_CONNECTIONS: usize = 4;
/// For a request to come, all of it.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of a request's head.
const MAX_HEAD: usize = 8 << 10;

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// One scrape.
enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// The bound address.
pub struct Http {
    listener: Listener,
    file: Option<File>,
}

impl Listener {
    fn accept(&self) -> io::Result<Stream> {
        match self {
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| Stream::Tcp(stream)),
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| Stream::Unix(stream)),
        }
    }
}

impl Stream {
    fn set_timeouts(&self, time: Duration) -> io::Result<()> {
        // Zero would mean for ever.
        let time = Some(time.max(Duration::from_millis(1)));
        match self {
            Stream::Tcp(stream) => {
                stream.set_read_timeout(time).and_then(|()| stream.set_write_timeout(time))
            }
            Stream::Unix(stream) => {
                stream.set_read_timeout(time).and_then(|()| stream.set_write_timeout(time))
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(bytes),
            Stream::Unix(stream) => stream.read(bytes),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.write(bytes),
            Stream::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Http {
    pub fn bind(address: &MetricsAddress) -> Result<Self, BrokerError> {
        match address {
            MetricsAddress::Tcp(address) => {
                let listener = TcpListener::bind(address)
                    .map_err(|source| BrokerError::Metrics { address: address.to_string(), source })?;
                Ok(Http { listener: Listener::Tcp(listener), file: None })
            }
            MetricsAddress::Unix(path) => {
                let listener = Listener::Unix(listen(path)?);
                Ok(Http { listener, file: Some(File(path.clone())) })
            }
        }
    }

    /// Answers on threads of its own, as long as the process lives.
    pub fn serve(self, vms: Arc<Vms>) -> io::Result<Option<File>> {
        let Http { listener, file } = self;
        match &listener {
            Listener::Tcp(listener) => tracing::info!("metrics at http://{}/metrics", listener.local_addr()?),
            Listener::Unix(listener) => tracing::info!("metrics at {:?}", listener.local_addr()?),
        }
        let connections = Connections::default();
        std::thread::Builder::new().name("metrics".into()).spawn(move || {
            loop {
                let Ok(stream) = listener.accept() else {
                    // Out of descriptors, for example: not in a busy loop.
                    std::thread::sleep(Duration::from_secs(1));
                    continue;
                };
                let Some(connection) = connections.open(MAX_CONNECTIONS) else { continue };
                let vms = Arc::clone(&vms);
                let body = move || {
                    // A scraper that goes away in the middle is no matter.
                    let _ = answer(stream, || metrics::text(&status(&vms)));
                    drop(connection);
                };
                let _ = std::thread::Builder::new().name("scrape".into()).spawn(body);
            }
        })?;
        Ok(file)
    }
}

fn answer(mut stream: Stream, text: impl FnOnce() -> String) -> io::Result<()> {
    let (status, kind, body) = match read_head(&mut stream)? {
        None => ("431 Request Header Fields Too Large", "text/plain", "the request is too long\n".into()),
        Some(head) => match target(&head) {
            None => ("400 Bad Request", "text/plain", "this is no HTTP request\n".into()),
            Some(("GET", "/metrics")) => ("200 OK", "text/plain; version=0.0.4; charset=utf-8", text()),
            Some(("GET", _)) => ("404 Not Found", "text/plain", "metrics are at /metrics\n".into()),
            Some(_) => ("405 Method Not Allowed", "text/plain", "only GET is answered\n".into()),
        },
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())
}

/// A request up to the empty line; `None` if that does not come soon enough.
fn read_head(stream: &mut Stream) -> io::Result<Option<Vec<u8>>> {
    let deadline = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !ends(&head) {
        // For all of it, not for each byte.
        let left = deadline.saturating_duration_since(Instant::now());
        if head.len() > MAX_HEAD || left.is_zero() {
            return Ok(None);
        }
        stream.set_timeouts(left)?;
        let count = stream.read(&mut part)?;
        if count == 0 {
            break;
        }
        head.extend(part.iter().take(count));
    }
    Ok(Some(head))
}

fn ends(head: &[u8]) -> bool {
    head.windows(4).any(|bytes| bytes == b"\r\n\r\n") || head.windows(2).any(|bytes| bytes == b"\n\n")
}

/// Method and path of a request.
fn target(head: &[u8]) -> Option<(&str, &str)> {
    let line = std::str::from_utf8(head.split(|&b| b == b'\n').next()?).ok()?.trim_end();
    let mut words = line.split(' ');
    let (method, target, version) = (words.next()?, words.next()?, words.next()?);
    (version.starts_with("HTTP/1.") && words.next().is_none())
        .then(|| (method, target.split('?').next().unwrap_or(target)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(request: &[u8]) -> String {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut ours = Stream::Unix(ours);
        ours.write_all(request).unwrap();
        if let Stream::Unix(stream) = &ours {
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        }
        answer(Stream::Unix(theirs), || "vgpu 1\n".into()).unwrap();
        let mut text = String::new();
        let _ = ours.read_to_string(&mut text);
        text
    }

    #[test]
    fn only_what_a_scraper_asks_is_answered() {
        let good = ask(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(good.starts_with("HTTP/1.1 200 OK\r\n"), "{good}");
        assert!(good.contains("Content-Length: 7\r\n") && good.ends_with("\r\n\r\nvgpu 1\n"), "{good}");
        assert!(ask(b"GET /metrics?x=1 HTTP/1.0\n\n").contains("200 OK"));
        for (request, says) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], "404"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "405"),
            (b"\xff\xfe\r\n\r\n", "400"),
            (b"GET\r\n\r\n", "400"),
            (b"", "400"),
            (&[b'x'; 20_000], "431"),
        ] {
            let text = ask(request);
            assert!(text.starts_with(&format!("HTTP/1.1 {says}")), "{request:?} gave {text}");
        }
    }
}
