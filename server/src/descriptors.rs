//! File descriptors that go to another process along with a message, as `SCM_RIGHTS` in unix(7) describes.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};

/// Descriptors that can go along with one message; the daemon has three listening sockets.
pub const MOST: usize = 8;

/// Sends a message with these descriptors over a connected socket.
///
/// # Errors
/// When there are more than [`MOST`], or nobody takes the message.
pub fn send(to: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::Error::other("too many sockets to hand over"));
    }
    rustix::net::sendmsg(to, &[IoSlice::new(message)], &mut control, SendFlags::empty())?;
    Ok(())
}
