// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guest's network: `lo`, and an interface that is connected to nothing. Programs derive
//! names and random numbers from an interface's address, so each guest has its own.

use std::{
    fs::File,
    io::{self, ErrorKind},
    net::UdpSocket,
    os::fd::AsRawFd,
};

use anyhow::{Context, Result};
use crucible_protocol::Mac;
use nix::errno::Errno;

/// Name of the interface.
const NAME: &str = "eth0";

/// `_IOW('T', 202, int)` and `_IOW('T', 203, int)` of `include/uapi/linux/if_tun.h`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;

/// From the same file: Ethernet frames without a packet information header.
const IFF_TAP: libc::c_short = 0x0002;
const IFF_NO_PI: libc::c_short = 0x1000;

/// Brings up `lo`.
pub fn loopback_up() -> io::Result<()> {
    let mut request = request("lo");
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an `ifreq`, which `request` is.
    let result = unsafe {
        libc::ioctl(
            socket()?.as_raw_fd(),
            libc::SIOCSIFFLAGS,
            &raw const request,
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// Creates the interface with this address. Returns `None` if the kernel lacks TAP support.
pub fn interface(mac: Mac) -> Result<Option<Mac>> {
    let tun = match File::options().read(true).write(true).open("/dev/net/tun") {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound) => return Ok(None),
        tun => tun.context("cannot open /dev/net/tun")?,
    };
    make(&tun).with_context(|| format!("cannot make the interface {NAME}"))?;
    set_address(mac).with_context(|| format!("cannot give {NAME} the address {mac}"))?;
    Ok(Some(mac))
}

/// Creates a persistent interface, which stays when `tun` is closed.
fn make(tun: &File) -> io::Result<()> {
    let mut request = request(NAME);
    request.ifr_ifru.ifru_flags = IFF_TAP | IFF_NO_PI;
    // SAFETY: TUNSETIFF reads and writes an `ifreq`, which `request` is.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF as _, &raw mut request) };
    Errno::result(result)?;
    // SAFETY: TUNSETPERSIST takes a number.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETPERSIST as _, 1 as libc::c_ulong) };
    Errno::result(result)?;
    Ok(())
}

fn set_address(mac: Mac) -> io::Result<()> {
    let mut request = request(NAME);
    let mut address = libc::sockaddr {
        sa_family: libc::ARPHRD_ETHER,
        sa_data: [0; 14],
    };
    for (to, from) in address.sa_data.iter_mut().zip(mac.0) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_hwaddr = address;
    // SAFETY: SIOCSIFHWADDR reads an `ifreq`, which `request` is.
    let result = unsafe {
        libc::ioctl(
            socket()?.as_raw_fd(),
            libc::SIOCSIFHWADDR,
            &raw const request,
        )
    };
    Errno::result(result)?;
    Ok(())
}

/// Opens a socket for interface ioctls.
fn socket() -> io::Result<UdpSocket> {
    UdpSocket::bind("0.0.0.0:0")
}

/// Returns an ioctl request for the interface `name`.
fn request(name: &str) -> libc::ifreq {
    // SAFETY: all zeroes is a valid `ifreq`, made of integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request
}
