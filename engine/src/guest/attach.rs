// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A program in the guest whose standard streams are those of the host, in any amount.

use std::{
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
};

use crucible_protocol::{
    Reply, Request, Terminal,
    stdio::{Last, MAX_PIECE, Piece, Pieces, Stream, WINDOW},
};
use crucible_vmm::{Alert, AlertKind};

use super::{GRACE, Guest, GuestError, SESSION};

/// A program to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Working directory.
    pub cwd: String,
    /// Size of the program's terminal; `None` for pipes.
    pub terminal: Option<Terminal>,
}

/// The host's ends of a program's streams.
pub struct Streams {
    /// Standard input. It is read ahead of the program, and by a thread that ends with its next
    /// read if the program does not read it to its end.
    pub input: Box<dyn Read + Send>,
    /// Standard output, or the output of the terminal.
    pub output: Box<dyn Write + Send>,
    /// Standard error.
    pub error: Box<dyn Write + Send>,
}

/// The result of a program.
#[derive(Debug)]
pub struct Attached {
    /// The program's end, or the reason why it was not run.
    pub last: Last,
    /// The first error of writing to the host's streams. A closed reader is not an error.
    pub unwritten: Option<io::Error>,
}

/// A handle that resizes the terminal of a running program. It may outlive the program.
#[derive(Clone)]
pub struct Sender(Arc<(Mutex<State>, Condvar)>);

struct State {
    port: UnixStream,
    /// Number of bytes of input that may be sent now.
    window: usize,
    /// True once the program has ended: a later piece would reach the next program.
    over: bool,
}

impl Sender {
    fn new(port: UnixStream) -> Self {
        let state = State {
            port,
            // The guest opens the window together with the port: QEMU sometimes does not notice
            // that a port has been opened for which input already waits.
            window: 0,
            over: false,
        };
        Self(Arc::new((Mutex::new(state), Condvar::new())))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a piece, unless the program has ended. The reader notices a port that has ended. The
    /// function does not block for long: all pieces that may be in flight fit the port's buffer.
    fn send(&self, piece: &Piece) {
        let mut state = self.state();
        if !state.over {
            let _ = piece.write(&mut state.port);
        }
    }

    /// Sends the size of the user's terminal.
    pub fn resize(&self, rows: u16, columns: u16) {
        self.send(&Piece::Size { rows, columns });
    }

    /// Waits until input may be sent. Returns the number of bytes; `None` if the program has ended.
    fn room(&self) -> Option<usize> {
        let blocked = |state: &mut State| state.window == 0 && !state.over;
        let state = self.0.1.wait_while(self.state(), blocked);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        (!state.over).then(|| state.window.min(MAX_PIECE))
    }

    fn taken(&self, count: u32) {
        let mut state = self.state();
        state.window = WINDOW.min(state.window + count as usize);
        self.0.1.notify_all();
    }

    /// Ends the conversation.
    fn bye(&self) {
        self.send(&Piece::Bye);
        self.state().over = true;
        self.0.1.notify_all();
    }

    /// Sends all input.
    fn pump(&self, mut from: Box<dyn Read + Send>) {
        let mut buffer = vec![0; MAX_PIECE];
        while let Some(room) = self.room() {
            match from.read(&mut buffer[..room]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // An error of reading counts as the end, as for any program.
                Ok(0) | Err(_) => return self.send(&Piece::Input(Vec::new())),
                Ok(count) => {
                    let mut state = self.state();
                    state.window -= count.min(state.window);
                    drop(state);
                    self.send(&Piece::Input(buffer[..count].to_vec()));
                }
            }
        }
    }
}

/// A program's output on its way to the host's streams.
struct Receiver {
    from: UnixStream,
    sender: Sender,
    output: Option<Box<dyn Write + Send>>,
    error: Option<Box<dyn Write + Send>>,
    unwritten: Option<io::Error>,
}

impl Receiver {
    /// Writes all output. Returns `None` if the port ends before the program.
    fn receive(mut self) -> Option<Attached> {
        let mut pieces = Pieces::default();
        let mut buffer = vec![0; MAX_PIECE];
        loop {
            loop {
                match pieces.take() {
                    Ok(None) => break,
                    Ok(Some(Piece::Written(stream, data))) => self.write(stream, &data),
                    Ok(Some(Piece::Taken(count))) => self.sender.taken(count),
                    Ok(Some(Piece::Last(last))) => {
                        self.sender.bye();
                        return Some(Attached {
                            last,
                            unwritten: self.unwritten,
                        });
                    }
                    Ok(Some(_)) | Err(_) => return None,
                }
            }
            match self.from.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return None,
                Ok(count) => pieces.add(&buffer[..count]),
            }
        }
    }

    fn write(&mut self, stream: Stream, data: &[u8]) {
        let to = match stream {
            Stream::Output => &mut self.output,
            Stream::Error => &mut self.error,
        };
        let Some(writer) = to else { return };
        if let Err(error) = writer.write_all(data).and_then(|()| writer.flush()) {
            *to = None;
            if error.kind() != ErrorKind::BrokenPipe {
                self.unwritten.get_or_insert(error);
            }
            self.sender.send(&Piece::Closed(stream));
        }
    }
}

impl Guest {
    /// Runs a program with these streams, and waits for its end without any limit. `began` receives
    /// the handle of its terminal. A report of the kernel other than a panic does
    /// not end the program: it is given to `reported`, and the program continues.
    ///
    /// # Errors
    /// Those of any request, and [`GuestError::Failed`] if the agent cannot connect the streams.
    pub fn attach(
        &mut self,
        program: Program,
        streams: Streams,
        began: &mut dyn FnMut(Sender),
        reported: &mut dyn FnMut(&[Alert]),
    ) -> Result<Attached, GuestError> {
        let port = self.machine.terminal()?;
        let from = port.try_clone().map_err(GuestError::Thread)?;
        let sender = Sender::new(port);
        let receiver = Receiver {
            from,
            sender: sender.clone(),
            output: Some(streams.output),
            error: Some(streams.error),
            unwritten: None,
        };
        let (to, end) = mpsc::channel();
        let receive = move || {
            // The program's streams close with this thread, before its end is known.
            let attached = receiver.receive();
            let _ = to.send(attached);
        };
        let spawn = |name: &str| thread::Builder::new().name(name.into());
        spawn("output").spawn(receive).map_err(GuestError::Thread)?;
        let pump = sender.clone();
        let input = move || pump.pump(streams.input);
        spawn("input").spawn(input).map_err(GuestError::Thread)?;
        began(sender);
        let id = self.post(Request::Attach {
            port: crucible_vmm::TERMINAL_PORT.to_owned(),
            argv: program.argv,
            cwd: program.cwd,
            terminal: program.terminal,
        })?;
        let reply = loop {
            match self.answer(id, "attach", SESSION) {
                Err(GuestError::Alert { alerts, .. }) if alerts.iter().all(survived) => {
                    reported(&alerts);
                }
                Ok(Reply::Tool(run)) => break run,
                Ok(_) => return Err(GuestError::Confused("attach")),
                Err(error) => return Err(error),
            }
        };
        match (reply.success(), end.recv_timeout(GRACE)) {
            (true, Ok(Some(attached))) => Ok(attached),
            _ => {
                let said = reply.stderr.trim();
                let why = format!("the agent cannot connect the program's streams: {said}");
                Err(GuestError::Failed(why))
            }
        }
    }
}

fn survived(alert: &Alert) -> bool {
    alert.kind != AlertKind::Panic
}

#[cfg(test)]
mod tests {
    use super::*;
    use crucible_protocol::Ended;

    /// Reads the pieces that the host sends until the end of its input.
    fn input(port: &mut UnixStream) -> Vec<u8> {
        let (mut pieces, mut all, mut buffer) = (Pieces::default(), Vec::new(), [0; 4096]);
        loop {
            while let Some(piece) = pieces.take().unwrap() {
                match piece {
                    Piece::Input(data) if data.is_empty() => return all,
                    Piece::Input(data) => {
                        all.extend(&data);
                        Piece::Taken(data.len() as u32).write(port).unwrap();
                    }
                    other => panic!("{other:?}"),
                }
            }
            let count = port.read(&mut buffer).unwrap();
            pieces.add(&buffer[..count]);
        }
    }

    #[test]
    fn no_more_than_a_window_is_sent_to_a_program_that_reads_nothing() {
        let (host, _guest) = UnixStream::pair().unwrap();
        let sender = Sender::new(host);
        sender.taken(WINDOW as u32);
        let pump = sender.clone();
        let pumping = thread::spawn(move || pump.pump(Box::new(io::repeat(7))));
        // The thread blocks on the window until the program has ended.
        while sender.state().window > 0 {
            thread::yield_now();
        }
        sender.bye();
        pumping.join().unwrap();
    }

    #[test]
    fn all_input_arrives_and_the_end_stops_both_directions() {
        let (host, mut guest) = UnixStream::pair().unwrap();
        let from = host.try_clone().unwrap();
        let sender = Sender::new(host);
        let (end, written) = io::pipe().map(|(reader, writer)| (writer, reader)).unwrap();
        let receiver = Receiver {
            from,
            sender: sender.clone(),
            output: Some(Box::new(end)),
            error: None,
            unwritten: None,
        };
        let receiving = thread::spawn(|| receiver.receive());
        let data: Vec<u8> = (0..3 * WINDOW).map(|n| (n % 251) as u8).collect();
        let all = data.clone();
        let pump = sender.clone();
        thread::spawn(move || pump.pump(Box::new(io::Cursor::new(all))));
        Piece::Taken(WINDOW as u32).write(&mut guest).unwrap();
        assert_eq!(input(&mut guest), data);
        // The reader is gone: the program gets an error from its next write, and continues.
        drop(written);
        let said = Piece::Written(Stream::Output, vec![1]);
        said.write(&mut guest).unwrap();
        let last = Last::Ended(Ended::Exited { code: 3 });
        Piece::Last(last.clone()).write(&mut guest).unwrap();
        let attached = receiving.join().unwrap().unwrap();
        assert_eq!(attached.last, last);
        assert!(attached.unwritten.is_none());
        let mut pieces = Pieces::default();
        let mut buffer = [0; 64];
        let mut answers = Vec::new();
        while answers.last() != Some(&Piece::Bye) {
            let count = guest.read(&mut buffer).unwrap();
            pieces.add(&buffer[..count]);
            while let Some(piece) = pieces.take().unwrap() {
                answers.push(piece);
            }
        }
        assert_eq!(answers, [Piece::Closed(Stream::Output), Piece::Bye]);
        // No further piece may be sent: it would reach the next program.
        sender.resize(1, 1);
        guest.set_nonblocking(true).unwrap();
        let rest = guest.read(&mut buffer).map_err(|error| error.kind());
        assert_eq!(rest, Err(ErrorKind::WouldBlock));
    }
}
