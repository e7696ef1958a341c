//! The part of QMP, QEMU's control protocol, that a machine needs: commands
//! with their answers, and the event that tells why QEMU ends.

use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Error, Result};

/// A connection to a QEMU.
pub(super) struct Qmp {
    stream: UnixStream,
    replies: Receiver<Reply>,
    shared: Arc<Shared>,
    version: String,
}

/// What a machine's end looks like from here.
#[derive(Debug, Clone, Default)]
pub(super) struct End {
    /// QEMU's reason for shutting down: `guest-reset`, `host-signal`, ….
    pub reason: Option<String>,
    /// Where a migration stands, in QEMU's words.
    pub migration: Option<String>,
    /// The connection is closed.
    pub closed: bool,
}

#[derive(Default)]
struct Shared {
    end: Mutex<End>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    /// Shakes hands with the QEMU at the other end.
    pub fn connect(stream: UnixStream, timeout: Duration) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let (sender, replies) = mpsc::channel();
        let input = stream.try_clone().map_err(|source| Error::Io {
            what: "share the control socket",
            source,
        })?;
        thread::Builder::new()
            .name("qmp".into())
            .spawn({
                let shared = Arc::clone(&shared);
                move || read(input, &sender, &shared)
            })
            .map_err(|source| Error::Io {
                what: "start the control socket's thread",
                source,
            })?;
        let mut qmp = Self {
            stream,
            replies,
            shared,
            version: String::new(),
        };
        if let Reply::Version(version) = qmp.reply("greeting", timeout)? {
            qmp.version = version;
        }
        qmp.execute("qmp_capabilities", json!({}), timeout)?;
        Ok(qmp)
    }

    /// QEMU's version, with that of its package.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Runs a command and gives its result.
    pub fn execute(&mut self, command: &str, arguments: Value, timeout: Duration) -> Result<Value> {
        let mut line = json!({ "execute": command, "arguments": arguments }).to_string();
        line.push('\n');
        self.stream
            .write_all(line.as_bytes())
            .map_err(|_| Error::Gone {
                command: command.into(),
            })?;
        match self.reply(command, timeout)? {
            Reply::Return(value) => Ok(value),
            Reply::Version(_) => Ok(Value::Null),
            Reply::Failure(words) => Err(Error::Refused {
                command: command.into(),
                words,
            }),
        }
    }

    /// Runs a command that takes an open file.
    pub fn execute_with_fd(
        &mut self,
        command: &str,
        arguments: Value,
        file: impl AsFd,
        timeout: Duration,
    ) -> Result<Value> {
        // QEMU keeps a descriptor that comes before its command; so a space does.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let file = [file.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&file));
        sendmsg(
            &self.stream,
            &[IoSlice::new(b" ")],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )
        .map_err(|_| Error::Gone {
            command: command.into(),
        })?;
        self.execute(command, arguments, timeout)
    }

    fn reply(&mut self, command: &str, timeout: Duration) -> Result<Reply> {
        self.replies
            .recv_timeout(timeout)
            .map_err(|error| match error {
                RecvTimeoutError::Disconnected => Error::Gone {
                    command: command.into(),
                },
                RecvTimeoutError::Timeout => Error::Silent {
                    command: command.into(),
                    after: timeout,
                },
            })
    }

    /// What is known about the end so far.
    pub fn end(&self) -> End {
        self.shared.lock().clone()
    }

    /// Waits until a migration has come to its end. QEMU tells, where it has the
    /// capability `events`.
    pub fn wait_migrated(&mut self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let command = "migrate";
        let mut end = self.shared.lock();
        loop {
            match end.migration.as_deref() {
                Some("completed") => return Ok(()),
                Some("failed") => break,
                _ if end.closed => {
                    return Err(Error::Gone {
                        command: command.into(),
                    });
                }
                _ => {}
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Silent {
                    command: command.into(),
                    after: timeout,
                });
            }
            end = self
                .shared
                .changed
                .wait_timeout(end, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        drop(end);
        let answer = self.execute("query-migrate", json!({}), timeout)?;
        let why = answer.get("error-desc").and_then(Value::as_str);
        Err(Error::Refused {
            command: command.into(),
            words: why.unwrap_or("it does not say why").into(),
        })
    }

    /// Waits until QEMU closes the connection, which it does as it ends.
    /// False if it did not within `timeout`.
    pub fn wait_closed(&self, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut end = self.shared.lock();
        while !end.closed {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            end = self
                .shared
                .changed
                .wait_timeout(end, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }
}

fn read(input: UnixStream, replies: &Sender<Reply>, shared: &Shared) {
    for line in BufReader::new(input).lines() {
        let Ok(line) = line else { break };
        // What is not understood is neither an answer nor the event.
        let Ok(message) = serde_json::from_str(&line) else {
            continue;
        };
        let reply = match message {
            Message::Greeting { qmp } => Reply::Version(describe(&qmp.version)),
            Message::Return { value } => Reply::Return(value),
            Message::Failure { error } => Reply::Failure(error.desc),
            Message::Event { event, data } => {
                if event == "SHUTDOWN" {
                    let reason = data.get("reason").and_then(Value::as_str);
                    shared.lock().reason = reason.map(str::to_owned);
                }
                if event == "MIGRATION" {
                    let status = data.get("status").and_then(Value::as_str);
                    shared.lock().migration = status.map(str::to_owned);
                    shared.changed.notify_all();
                }
                continue;
            }
        };
        if replies.send(reply).is_err() {
            break;
        }
    }
    shared.lock().closed = true;
    shared.changed.notify_all();
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
    use super::*;

    const SECOND: Duration = Duration::from_secs(5);

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
    fn shakes_hands_executes_and_sees_the_end() {
        let stream = serve(&[
            r#"{"QMP":{"version":{"qemu":{"micro":22,"minor":2,"major":7},"package":"Debian"},"capabilities":["oob"]}}"#,
            "",
            r#"{"return":{}}"#,
            "",
            r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"RESUME"}"#,
            r#"{"error":{"class":"GenericError","desc":"no such chardev"}}"#,
            r#"{"timestamp":{"seconds":1,"microseconds":2},"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-reset"}}"#,
        ]);
        let mut qmp = Qmp::connect(stream, SECOND).unwrap();
        assert_eq!(qmp.version(), "7.2.22 (Debian)");
        let error = qmp
            .execute("chardev-send-break", json!({"id": "x"}), SECOND)
            .unwrap_err();
        assert!(error.to_string().contains("no such chardev"), "{error}");
        assert!(qmp.wait_closed(SECOND));
        assert_eq!(qmp.end().reason.as_deref(), Some("guest-reset"));
    }

    #[test]
    fn a_qemu_that_dies_is_gone_not_silent() {
        let error = Qmp::connect(serve(&[]), SECOND).err().unwrap();
        assert!(matches!(error, Error::Gone { .. }), "{error}");
    }
}
