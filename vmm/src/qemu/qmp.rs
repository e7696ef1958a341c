// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The part of QMP, QEMU's control protocol, that a machine needs: commands with their replies, and
//! the event with the reason of a shutdown.

use std::io::{BufRead, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::control::{Answers, ControlSocket, Exchange, LONGEST, Notes, gone};
use crate::{Error, FaultKind, HostFault, Result};

/// The reason of a shutdown that was requested of QEMU's monitor, by QMP or by a person.
const QUIT: &str = "host-qmp-quit";

/// A connection to a QEMU process.
pub(super) struct Qmp {
    socket: ControlSocket<Reply, Status>,
    version: String,
}

/// The state from QEMU's events.
#[derive(Debug, Clone, Default)]
struct Status {
    /// The reason of its shutdown: `guest-reset`, `host-signal`, ….
    reason: Option<String>,
    /// True when the vCPUs were stopped at that shutdown.
    stopped_at_shutdown: bool,
    /// True when the vCPUs run. QEMU starts with stopped vCPUs, and without an event.
    running: bool,
    /// The status of a migration, by QEMU's name.
    migration: Option<String>,
    /// The first failure of a disk.
    fault: Option<HostFault>,
    /// The end of a dump of the memory, with the error if it failed.
    dumped: Option<Option<String>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Message {
    Greeting {
        #[serde(rename = "QMP")]
        qmp: Greeting,
    },
    Event {
        event: String,
        #[serde(default)]
        data: Value,
    },
    Return {
        #[serde(rename = "return")]
        value: Value,
    },
    Failure {
        error: Failure,
    },
}

#[derive(Deserialize)]
struct Greeting {
    version: Version,
}

#[derive(Deserialize)]
struct Version {
    qemu: Triple,
    package: String,
}

#[derive(Deserialize)]
struct Triple {
    major: u32,
    minor: u32,
    micro: u32,
}

#[derive(Deserialize)]
struct Failure {
    desc: String,
}

enum Reply {
    Version(String),
    Return(Value),
    Failure(String),
}

impl Qmp {
    /// Negotiates the protocol with the QEMU process at the other end.
    pub fn connect(stream: UnixStream) -> Result<Self> {
        let mut qmp = Self {
            socket: ControlSocket::open(stream, read)?,
            version: String::new(),
        };
        let greeting = qmp.socket.exchange().answer("greeting")?;
        if let Reply::Version(version) = greeting {
            qmp.version = version;
        }
        qmp.execute("qmp_capabilities", json!({}))?;
        Ok(qmp)
    }

    /// Returns the versions of QEMU and of its package.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Runs a command and returns its result.
    pub fn execute(&self, command: &str, arguments: Value) -> Result<Value> {
        execute(&self.socket.exchange(), command, &arguments)
    }

    /// Runs a command that takes an open file.
    pub fn execute_with_fd(
        &self,
        command: &str,
        arguments: Value,
        file: impl AsFd,
    ) -> Result<Value> {
        let exchange = self.socket.exchange();
        // QEMU keeps a descriptor that it receives before the command, so send it with a space.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let file = [file.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&file));
        sendmsg(
            exchange.stream(),
            &[IoSlice::new(b" ")],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
        .map_err(|_| gone(command))?;
        execute(&exchange, command, &arguments)
    }

    /// Waits until QEMU reports a shutdown, and returns its reason. Returns `None` if QEMU has
    /// exited first.
    pub fn wait_shutdown(&self) -> Option<String> {
        let status = self.socket.wait_ended(|status| status.reason.is_some());
        status?.reason
    }

    /// Returns the reason why QEMU shuts down, or `None` if it has not reported a shutdown.
    pub fn reason(&self) -> Option<String> {
        self.socket.noted().reason
    }

    /// Returns true when QEMU shuts down on a request to quit that arrived while the vCPUs were
    /// stopped.
    pub fn was_quit_while_stopped(&self) -> bool {
        let status = self.socket.noted();
        status.stopped_at_shutdown && status.reason.as_deref() == Some(QUIT)
    }

    /// Returns the first failure of the host's disk that QEMU has reported.
    pub fn host_fault(&self) -> Option<HostFault> {
        self.socket.noted().fault
    }

    /// Waits until a migration has completed or failed. QEMU reports this only with the migration
    /// capability `events`.
    pub fn wait_migrated(&self) -> Result<()> {
        let command = "migrate";
        let ended =
            |status: &Status| matches!(status.migration.as_deref(), Some("completed" | "failed"));
        let status = self.socket.wait_noted(command, ended)?;
        if status.migration.as_deref() == Some("completed") {
            return Ok(());
        }
        let answer = self.execute("query-migrate", json!({}))?;
        let why = answer.get("error-desc").and_then(Value::as_str);
        Err(Error::Refused {
            command: command.into(),
            reason: why.unwrap_or("it reported no reason").into(),
        })
    }

    /// Waits until a dump of the memory has been completed or has failed.
    pub fn wait_dumped(&self) -> Result<()> {
        let command = "dump-guest-memory";
        let ended = |status: &Status| status.dumped.is_some();
        let status = self.socket.wait_noted(command, ended)?;
        match status.dumped.flatten() {
            None => Ok(()),
            Some(reason) => Err(Error::Refused {
                command: command.into(),
                reason,
            }),
        }
    }

    /// Waits until QEMU closes the connection. Returns false when it did not within `timeout`.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        self.socket.wait_closed(timeout)
    }
}

fn execute(exchange: &Exchange<'_, Reply>, command: &str, arguments: &Value) -> Result<Value> {
    let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
    tracing::debug!(target: "qmp", "> {line}");
    line.push('\n');
    exchange
        .stream()
        .write_all(line.as_bytes())
        .map_err(|_| gone(command))?;
    match exchange.answer(command)? {
        Reply::Return(value) => Ok(value),
        Reply::Version(_) => Ok(Value::Null),
        Reply::Failure(reason) => Err(Error::Refused {
            command: command.into(),
            reason,
        }),
    }
}

fn read(mut input: impl BufRead, replies: &Answers<Reply>, notes: &Notes<Status>) {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = (&mut input).take(LONGEST).read_until(b'\n', &mut line);
        // A line that is cut off is the end, and one that is too long comes from a compromised
        // process: treat it like one that has exited.
        if read.is_err() || !line.ends_with(b"\n") {
            break;
        }
        tracing::debug!(target: "qmp", "< {}", String::from_utf8_lossy(&line).trim_end());
        // A message that cannot be parsed is neither a reply nor an event of interest.
        let Ok(message) = serde_json::from_slice(&line) else {
            continue;
        };
        let reply = match message {
            Message::Greeting { qmp } => Reply::Version(describe(&qmp.version)),
            Message::Return { value } => Reply::Return(value),
            Message::Failure { error } => Reply::Failure(error.desc),
            Message::Event { event, data } => {
                let word = |key| data.get(key).and_then(Value::as_str).map(str::to_owned);
                match event.as_str() {
                    // A second shutdown event is the result of our own request to exit.
                    "SHUTDOWN" => notes.note(|status| {
                        if status.reason.is_none() {
                            status.reason = word("reason");
                            status.stopped_at_shutdown = !status.running;
                        }
                    }),
                    "STOP" => notes.note(|status| status.running = false),
                    "RESUME" => notes.note(|status| status.running = true),
                    "BLOCK_IO_ERROR" => notes.note(|status| {
                        status.fault.get_or_insert_with(|| block_error(&data));
                    }),
                    "DUMP_COMPLETED" => notes.note(|status| status.dumped = Some(word("error"))),
                    "MIGRATION" => notes.note(|status| status.migration = word("status")),
                    _ => {}
                }
                continue;
            }
        };
        if !replies.add(reply) {
            break;
        }
    }
}

/// Runs one input of the fuzz target `qmp`: the messages of a QEMU that its guest has taken over.
#[cfg(feature = "fuzzing")]
pub(crate) fn fuzz(data: &[u8]) {
    let (answers, replies) = Answers::new();
    let notes = Notes::default();
    read(data, &answers, &notes);
    // The number of replies that are kept is limited, and each is one line.
    for reply in replies.try_iter() {
        match reply {
            Reply::Version(text) | Reply::Failure(text) => {
                assert!(text.len() <= LONGEST as usize + 64);
            }
            Reply::Return(_) => {}
        }
    }
    if let Some(fault) = notes.noted().fault {
        assert!(fault.to_string().len() <= 3 * LONGEST as usize);
    }
}

/// Returns the fault that a `BLOCK_IO_ERROR` reports.
fn block_error(data: &Value) -> HostFault {
    let word = |key| data.get(key).and_then(Value::as_str).unwrap_or("?");
    let reason = word("reason");
    // QEMU sets `nospace` only if it stops the guest on such an error. It runs without a locale, so
    // its reasons are those of the C library.
    let full = data.get("nospace").and_then(Value::as_bool) == Some(true)
        || ["No space left on device", "Disk quota exceeded"].contains(&reason);
    HostFault {
        kind: match full {
            true => FaultKind::DiskFull,
            false => FaultKind::Io,
        },
        detail: format!(
            "cannot {} {}: {reason}",
            word("operation"),
            word("node-name")
        ),
    }
}

fn describe(version: &Version) -> String {
    let Triple {
        major,
        minor,
        micro,
    } = version.qemu;
    let number = format!("{major}.{minor}.{micro}");
    if version.package.is_empty() {
        number
    } else {
        format!("{number} ({})", version.package)
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;
    use std::thread;

    use super::*;
    use crate::control::ANSWER;

    fn serve(lines: &'static [&'static str]) -> UnixStream {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            let mut commands = BufReader::new(theirs.try_clone().unwrap());
            for line in lines {
                if line.is_empty() {
                    commands.read_line(&mut String::new()).unwrap();
                } else {
                    writeln!(theirs, "{line}").unwrap();
                }
            }
        });
        ours
    }

    #[test]
    fn negotiates_executes_and_notices_the_end() {
        let stream = serve(&[
            r#"{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":"Debian"},"capabilities":["oob"]}}"#,
            "",
            r#"{"return":{}}"#,
            "",
            r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"RESUME"}"#,
            r#"{"error":{"class":"GenericError","desc":"no such chardev"}}"#,
            r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}}"#,
        ]);
        let qmp = Qmp::connect(stream).unwrap();
        assert_eq!(qmp.version(), "7.2.22 (Debian)");
        let error = qmp
            .execute("chardev-send-break", json!({"id": "x"}))
            .unwrap_err();
        assert!(error.to_string().contains("no such chardev"), "{error}");
        assert!(qmp.wait_closed(ANSWER));
        assert_eq!(qmp.reason().as_deref(), Some("guest-reset"));
    }

    #[test]
    fn a_request_to_quit_is_told_from_the_end_of_a_replay() {
        let quit = |events: &[&str], reason: &str| {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let greeting = r#"{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":""},"capabilities":[]}}"#;
            let mut lines = vec![greeting.to_owned()];
            lines.extend(
                events
                    .iter()
                    .map(|event| format!(r#"{{"event":"{event}"}}"#)),
            );
            let shutdown =
                |reason| format!(r#"{{"event":"SHUTDOWN","data":{{"reason":"{reason}"}}}}"#);
            // Our own request to exit may follow, when QEMU has stopped the vCPUs.
            lines.extend([
                shutdown(reason),
                r#"{"event":"STOP"}"#.into(),
                shutdown(QUIT),
            ]);
            lines.push(r#"{"return":{}}"#.into());
            writeln!(theirs, "{}", lines.join("\n")).unwrap();
            Qmp::connect(ours).unwrap().was_quit_while_stopped()
        };
        assert!(quit(&[], QUIT));
        assert!(quit(&["RESUME", "STOP"], QUIT));
        // A recording that crucible ended has this reason, too, but the guest was running.
        assert!(!quit(&["RESUME", "STOP", "RESUME"], QUIT));
        assert!(!quit(&["RESUME", "STOP"], "guest-reset"));
    }

    #[test]
    fn the_first_failure_of_the_hosts_disk_is_kept() {
        let event = |data: &str| {
            let line = format!(r#"{{"event":"BLOCK_IO_ERROR","data":{data}}}"#);
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let greeting = r#"{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":""},"capabilities":[]}}"#;
            let later = r#"{"event":"BLOCK_IO_ERROR","data":{"reason":"later"}}"#;
            let done = r#"{"return":{}}"#;
            writeln!(theirs, "{greeting}\n{line}\n{later}\n{done}").unwrap();
            // The answer follows the events, so both have been read.
            Qmp::connect(ours).unwrap().host_fault().unwrap()
        };
        let full = event(
            r#"{"device":"","node-name":"disk2","operation":"write","action":"report","reason":"No space left on device"}"#,
        );
        assert_eq!(full.kind, FaultKind::DiskFull);
        assert_eq!(full.detail, "cannot write disk2: No space left on device");
        let stopped = event(r#"{"action":"stop","nospace":true,"reason":"x"}"#);
        assert_eq!(stopped.kind, FaultKind::DiskFull);
        let broken =
            event(r#"{"node-name":"disk0","operation":"read","reason":"Input/output error"}"#);
        assert_eq!(broken.kind, FaultKind::Io);
        assert_eq!(event("null").detail, "cannot ? ?: ?");
    }

    #[test]
    fn an_endless_line_closes_the_connection() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = ControlSocket::open(ours, read).unwrap();
        let talks = thread::spawn(move || while theirs.write_all(&[b'['; 4096]).is_ok() {});
        assert!(socket.wait_closed(ANSWER));
        // The writer ends only when our end is closed.
        drop(socket);
        talks.join().unwrap();
    }

    #[test]
    fn a_qemu_that_exits_is_gone_not_silent() {
        let error = Qmp::connect(serve(&[])).err().unwrap();
        assert!(matches!(error, Error::Gone { .. }), "{error}");
    }
}
