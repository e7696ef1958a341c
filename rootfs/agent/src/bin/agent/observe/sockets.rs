// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Observes Unix sockets by sock_diag(7), which shows state that no file of `/proc` has: peers,
//! queues, buffer sizes and owners.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::os::fd::AsRawFd as _;

use anyhow::{Context, Result, bail};
use crucible_protocol::Observation;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// `SOCK_DIAG_BY_FAMILY` (`include/uapi/linux/sock_diag.h`).
const BY_FAMILY: u16 = 20;

/// `UDIAG_SHOW_NAME`, `_PEER`, `_ICONS`, `_RQLEN`, `_MEMINFO` and `_UID`
/// (`include/uapi/linux/unix_diag.h`).
const SHOW: u32 = 0x01 | 0x04 | 0x08 | 0x10 | 0x20 | 0x40;

/// `TCP_LISTEN`, which Unix sockets have, too.
const LISTEN: u8 = 10;

/// Sizes of `struct nlmsghdr`, `struct unix_diag_msg` and `struct nlattr`.
const HEADER: usize = 16;
const MESSAGE: usize = 16;
const ATTRIBUTE: usize = 4;

/// Size of the buffer for answers: the kernel's own limit of a dump's messages.
const BUFFER: usize = 32 << 10;

/// A Unix socket.
#[derive(Debug, Default, PartialEq, Eq)]
struct UnixSocket {
    kind: u8,
    state: u8,
    name: Vec<u8>,
    peer: Option<u32>,
    /// Number of connections that were not accepted.
    pending: usize,
    /// Bytes to read, or connections of a listening socket.
    readable: u32,
    /// Maximum number of connections that were not accepted, of a listening socket.
    backlog: Option<u32>,
    rcvbuf: u32,
    sndbuf: u32,
    shutdown: u8,
    uid: u32,
}

/// Adds the fact `fd/N.unix` to each descriptor of a Unix socket.
///
/// # Errors
/// The kernel does not list its Unix sockets (`CONFIG_UNIX_DIAG`).
pub fn observe(observation: &mut Observation) -> Result<()> {
    let mut open = Vec::new();
    let mut first: HashMap<u32, String> = HashMap::new();
    for (index, task) in observation.tasks.iter().enumerate() {
        for (name, target) in &task.facts {
            let fd = name
                .strip_prefix("fd/")
                .and_then(|name| name.strip_suffix(".link"));
            let Some((fd, inode)) = fd.zip(inode(&target.shown())) else {
                continue;
            };
            open.push((index, fd.to_owned(), inode));
            first
                .entry(inode)
                .or_insert_with(|| format!("{}:{fd}", task.tid));
        }
    }
    if open.is_empty() {
        return Ok(());
    }
    let sockets = unix_sockets().context("cannot list Unix sockets by sock_diag(7)")?;
    for (index, fd, inode) in open {
        // Sockets of other families are not in the list.
        if let Some(socket) = sockets.get(&inode) {
            let facts = &mut observation.tasks[index].facts;
            facts.insert(format!("fd/{fd}.unix"), socket.shown(&first).into());
        }
    }
    Ok(())
}

/// Returns the inode of a link such as `socket:[123]`.
fn inode(link: &str) -> Option<u32> {
    let number = link.strip_prefix("socket:[")?.strip_suffix(']')?;
    number.parse().ok()
}

/// Returns all Unix sockets of this network namespace, which containers share, by inode.
fn unix_sockets() -> Result<HashMap<u32, UnixSocket>> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    let kernel = NetlinkAddr::new(0, 0);
    sendto(netlink.as_raw_fd(), &request(), &kernel, MsgFlags::empty())?;
    let mut sockets = HashMap::new();
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = recv(netlink.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        if parse(&buffer[..length], &mut sockets)? {
            return Ok(sockets);
        }
    }
}

/// Returns the request for all Unix sockets: `struct nlmsghdr` and `struct unix_diag_req`.
fn request() -> Vec<u8> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut body = vec![libc::AF_UNIX as u8, 0, 0, 0];
    // All states; no inode; no cookie.
    for word in [u32::MAX, 0, SHOW, u32::MAX, u32::MAX] {
        body.extend(word.to_ne_bytes());
    }
    let mut request = Vec::new();
    request.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    request.extend(BY_FAMILY.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    request
}

/// Adds the sockets of a datagram of messages. Returns true for the last one.
fn parse(mut text: &[u8], sockets: &mut HashMap<u32, UnixSocket>) -> Result<bool> {
    const DONE: u16 = libc::NLMSG_DONE as u16;
    const ERROR: u16 = libc::NLMSG_ERROR as u16;
    while !text.is_empty() {
        let length = word(text, 0)? as usize;
        let message = text.get(HEADER..length).context("a cut message")?;
        match half(text, 4)? {
            DONE => return Ok(true),
            ERROR => bail!(Errno::from_raw(-(word(message, 0)? as i32))),
            BY_FAMILY => {
                let inode = word(message, 4)?;
                sockets.insert(inode, UnixSocket::parse(message)?);
            }
            _ => {}
        }
        text = text.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

impl UnixSocket {
    /// Parses `struct unix_diag_msg` and the attributes behind it.
    fn parse(message: &[u8]) -> Result<Self> {
        let head = message.get(..MESSAGE).context("a cut message")?;
        let mut socket = Self {
            kind: head[1],
            state: head[2],
            ..Self::default()
        };
        let mut rest = &message[MESSAGE..];
        while !rest.is_empty() {
            let length = usize::from(half(rest, 0)?);
            let value = rest.get(ATTRIBUTE..length).context("a cut attribute")?;
            match half(rest, 2)? {
                0 => socket.name = value.to_vec(),
                2 => socket.peer = Some(word(value, 0)?),
                3 => socket.pending = value.len() / 4,
                4 => {
                    socket.readable = word(value, 0)?;
                    // Of other sockets, the second number is the kernel's memory.
                    socket.backlog = (socket.state == LISTEN).then_some(word(value, 4)?);
                }
                // SK_MEMINFO_RCVBUF and SK_MEMINFO_SNDBUF; the others count the kernel's memory.
                5 => (socket.rcvbuf, socket.sndbuf) = (word(value, 4)?, word(value, 12)?),
                6 => socket.shutdown = value.first().copied().context("no value")?,
                7 => socket.uid = word(value, 0)?,
                _ => {}
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(socket)
    }

    /// Returns the fact: a peer is the first descriptor of the tree that refers to it.
    fn shown(&self, first: &HashMap<u32, String>) -> String {
        let mut text = format!("type {} state {}", self.kind, self.state);
        if !self.name.is_empty() {
            let _ = write!(text, " name {}", self.name.escape_ascii());
        }
        if let Some(peer) = self.peer {
            let peer = first.get(&peer).map_or("not open", String::as_str);
            let _ = write!(text, " peer {peer}");
        }
        if let Some(backlog) = self.backlog {
            let _ = write!(text, " backlog {backlog}");
        }
        let Self {
            pending,
            readable,
            rcvbuf,
            sndbuf,
            shutdown,
            uid,
            ..
        } = self;
        let _ = write!(
            text,
            " pending {pending} readable {readable} rcvbuf {rcvbuf} sndbuf {sndbuf} \
             shutdown {shutdown} uid {uid}"
        );
        text
    }
}

fn word(text: &[u8], at: usize) -> Result<u32> {
    let bytes = text.get(at..at + 4).context("a cut number")?;
    Ok(u32::from_ne_bytes(bytes.try_into()?))
}

fn half(text: &[u8], at: usize) -> Result<u16> {
    let bytes = text.get(at..at + 2).context("a cut number")?;
    Ok(u16::from_ne_bytes(bytes.try_into()?))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};

    use super::*;

    #[test]
    fn the_peer_and_the_queue_of_a_socket_are_listed() {
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(b"queued").unwrap();
        let name = SocketAddr::from_abstract_name("crucible-test").unwrap();
        let listener = UnixListener::bind_addr(&name).unwrap();
        let inode = |socket: &UnixStream| {
            let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd()));
            super::inode(link.unwrap().to_str().unwrap()).unwrap()
        };
        let Ok(sockets) = unix_sockets() else {
            eprintln!("skipped: this host's kernel does not list Unix sockets");
            return;
        };
        let receiver = &sockets[&inode(&other)];
        assert_eq!((receiver.kind, receiver.state), (1, 1));
        assert_eq!(receiver.peer, Some(inode(&one)));
        assert_eq!(receiver.readable, 6);
        let first = HashMap::from([(inode(&one), "7:3".to_owned())]);
        assert!(receiver.shown(&first).contains(" peer 7:3 "));
        assert_eq!(receiver.backlog, None);
        let listening = sockets
            .values()
            .find(|socket| socket.name == b"\0crucible-test");
        assert!(listening.is_some_and(|socket| socket.backlog > Some(0)));
        drop(listener);
    }

    #[test]
    fn a_cut_message_is_an_error() {
        let message = |length: u32, kind: u16, body: &[u8]| {
            let mut text = length.to_ne_bytes().to_vec();
            text.extend(kind.to_ne_bytes());
            text.extend([0; 10]);
            text.extend(body);
            text
        };
        let mut sockets = HashMap::new();
        assert!(parse(&message(16, 3, &[]), &mut sockets).unwrap());
        assert!(parse(&message(40, BY_FAMILY, &[0; 16]), &mut sockets).is_err());
        assert!(parse(&message(8, BY_FAMILY, &[]), &mut sockets).is_err());
        let error = parse(&message(20, 2, &(-2i32).to_ne_bytes()), &mut sockets).unwrap_err();
        assert!(error.to_string().contains("ENOENT"), "{error}");
        let mut attribute = vec![0; 16];
        attribute.extend([9, 0, 2, 0, 1]);
        assert!(UnixSocket::parse(&attribute).is_err());
        assert!(sockets.is_empty());
    }
}
