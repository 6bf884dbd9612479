//! A connection's coroutine: reads requests, answers them, and suspends itself where it would have
//! to wait.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::Ordering;

use heapswitch::{CurrentAllocatorInUse, HeapPool, Yielder};

use crate::Shared;
use crate::http::{self, Answer, Head, MOST_HEAD_BYTES, Status};
use crate::routes;

/// Requests' heaps.
static POOL: HeapPool = HeapPool::new();

/// How much is read at once.
const READ_BYTES: usize = 4 << 10;

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    ToRead,
    ToWrite,
}

/// Why a connection goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wake {
    Ready,
    TimedOut,
}

/// The coroutine's end of a connection.
pub(crate) struct Connection<'a, 'y> {
    shared: &'a Shared,
    stream: &'a TcpStream,
    yielder: &'a Yielder<'y, Wake, Waits>,
    /// What was read and not yet used; in the connection's heap.
    unread: Vec<u8>,
}

/// What became of a request.
enum Next {
    KeepOpen,
    Close,
}

impl<'a, 'y> Connection<'a, 'y> {
    pub(crate) fn new(
        shared: &'a Shared,
        stream: &'a TcpStream,
        yielder: &'a Yielder<'y, Wake, Waits>,
    ) -> Self {
        Self { shared, stream, yielder, unread: Vec::with_capacity(READ_BYTES) }
    }

    /// Serves requests until the client or an error ends the connection.
    pub(crate) fn serve(mut self) -> io::Result<()> {
        loop {
            let Some(head_bytes) = self.read_head()? else { return Ok(()) };
            let request_heap = POOL.take().map_err(io::Error::other)?;
            let connection_bytes = used_bytes();
            // All that belongs to the request is made in here, also while it waits for its body.
            let next = request_heap.run(|| self.serve_request(head_bytes, connection_bytes));
            match next.map_err(io::Error::other)?? {
                Next::KeepOpen => {}
                Next::Close => return self.stream.shutdown(std::net::Shutdown::Write),
            }
        }
    }

    /// Waits for a whole head; its length. `None`: the client has closed, or said nothing for long.
    fn read_head(&mut self) -> io::Result<Option<usize>> {
        loop {
            if let Some(end) = http::head_end(&self.unread) {
                return Ok(Some(end));
            }
            if self.unread.len() > MOST_HEAD_BYTES {
                let why = "the head is longer than 16 KiB";
                return self.refuse(Status::HEAD_TOO_LARGE, why).map(|()| None);
            }
            let start = self.unread.len();
            self.unread.resize(start + READ_BYTES, 0);
            let read = read_some(self.stream, self.yielder, &mut self.unread[start..]);
            self.unread.truncate(start + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut && start > 0 => {
                    let why = "the request did not arrive in time";
                    return self.refuse(Status::REQUEST_TIMEOUT, why).map(|()| None);
                }
                Err(error) if error.kind() == ErrorKind::TimedOut => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// Called in the request's heap.
    fn serve_request(&mut self, head_bytes: usize, connection_bytes: usize) -> io::Result<Next> {
        let head_text = self.unread[..head_bytes].to_vec();
        self.unread.drain(..head_bytes);
        let head = match http::parse(&head_text) {
            Ok(head) if head_bytes <= MOST_HEAD_BYTES => head,
            Ok(_) => {
                self.refuse(Status::HEAD_TOO_LARGE, "the head is longer than 16 KiB")?;
                return Ok(Next::Close);
            }
            Err((status, why)) => {
                self.refuse(status, why)?;
                return Ok(Next::Close);
            }
        };
        let body = match self.read_body(&head) {
            Ok(body) => body,
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                self.refuse(Status::REQUEST_TIMEOUT, "the body did not arrive in time")?;
                return Ok(Next::Close);
            }
            Err(error) => return Err(error),
        };
        let answer = routes::answer(self.shared, &head, &body);
        let has_body = head.method != "HEAD";
        let heaps = [("Connection-Bytes", connection_bytes), ("Request-Bytes", used_bytes())];
        self.write_all(&answer.bytes(head.is_kept, has_body, &heaps))?;
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        Ok(if head.is_kept { Next::KeepOpen } else { Next::Close })
    }

    fn read_body(&mut self, head: &Head<'_>) -> io::Result<Vec<u8>> {
        let here = self.unread.len().min(head.body_bytes);
        if head.expects_continue && here < head.body_bytes {
            self.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = vec![0; head.body_bytes];
        body[..here].copy_from_slice(&self.unread[..here]);
        self.unread.drain(..here);
        let mut rest = &mut body[here..];
        while !rest.is_empty() {
            let length = read_some(self.stream, self.yielder, rest)?;
            if length == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            rest = &mut rest[length..];
        }
        Ok(body)
    }

    /// Answers with an error; the connection is to be closed then.
    fn refuse(&mut self, status: Status, why: &str) -> io::Result<()> {
        self.write_all(&Answer::error(status, why).bytes(false, true, &[]))?;
        self.shared.requests.fetch_add(1, Ordering::Relaxed);
        self.stream.shutdown(std::net::Shutdown::Write)?;
        self.discard_rest()
    }

    /// Reads what the client goes on to send, so that closing does not reset the connection before
    /// the client has read the answer. Not for ever.
    fn discard_rest(&mut self) -> io::Result<()> {
        let mut sink = [0; READ_BYTES];
        for _ in 0..2 * http::MOST_BODY_BYTES / READ_BYTES {
            if read_some(self.stream, self.yielder, &mut sink)? == 0 {
                break;
            }
        }
        Ok(())
    }

    fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        let mut stream = self.stream;
        while !bytes.is_empty() {
            match stream.write(bytes) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => bytes = &bytes[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    wait(self.yielder, Waits::ToWrite)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn read_some(
    mut stream: &TcpStream,
    yielder: &Yielder<'_, Wake, Waits>,
    bytes: &mut [u8],
) -> io::Result<usize> {
    loop {
        match stream.read(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => wait(yielder, Waits::ToRead)?,
            read => return read,
        }
    }
}

fn wait(yielder: &Yielder<'_, Wake, Waits>, waits: Waits) -> io::Result<()> {
    match yielder.suspend(waits) {
        Wake::Ready => Ok(()),
        Wake::TimedOut => Err(ErrorKind::TimedOut.into()),
    }
}

/// What the heap that is current holds, in bytes.
fn used_bytes() -> usize {
    heapswitch::usage_of(CurrentAllocatorInUse::CoroutineLocal).committed_bytes
}
