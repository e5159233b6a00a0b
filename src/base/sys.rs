//! All `unsafe` code of the crate: system calls that have no safe wrapper.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::epoll::{EpollEvent, EpollTimeout};
use nix::sys::signal::{SigSet, SigmaskHow, pthread_sigmask};
use nix::unistd::Pid;
use socket2::SockAddr;

/// The path given to `execve` for this process, as it was given: relative or not, symlinks kept.
pub(crate) fn executable() -> Option<PathBuf> {
    // SAFETY: getauxval reads the auxiliary vector and has no preconditions.
    let address = unsafe { libc::getauxval(libc::AT_EXECFN) };
    if address == 0 {
        return None;
    }
    // SAFETY: the kernel put a NUL-terminated string there before the program started, on the
    // initial stack, which is never freed.
    let path = unsafe { CStr::from_ptr(address as *const libc::c_char) };
    Some(PathBuf::from(OsStr::from_bytes(path.to_bytes())))
}

/// Takes over a file descriptor that this process was started with, and makes it CLOEXEC.
///
/// # Errors
/// When `fd` is not open.
pub(crate) fn adopt(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only reads a flag and accepts any number.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and the caller (handover::inherit) takes each inherited
    // number once, as named by the process that started us: nothing else in this process owns it.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    fcntl(&owned, FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC))?;
    Ok(owned)
}

/// The inode of an open descriptor, if it is a socket. Looks without taking ownership.
pub(crate) fn socket_inode(fd: RawFd) -> Option<u64> {
    let stat = stat(fd)?;
    (stat.st_mode & libc::S_IFMT == libc::S_IFSOCK).then_some(stat.st_ino)
}

/// The device and the inode of an open descriptor. Looks without taking ownership.
pub(crate) fn file_id(fd: RawFd) -> Option<(libc::dev_t, u64)> {
    let stat = stat(fd)?;
    Some((stat.st_dev, stat.st_ino))
}

fn stat(fd: RawFd) -> Option<libc::stat64> {
    // Not fstat: on 32-bit targets it fails for inodes beyond 32 bits.
    let mut stat = MaybeUninit::<libc::stat64>::uninit();
    // SAFETY: fstat64 writes a whole `stat64` on success and only then is it read.
    unsafe {
        if libc::fstat64(fd, stat.as_mut_ptr()) != 0 {
            return None;
        }
        Some(stat.assume_init())
    }
}

/// Above the descriptors that scripts use by name.
pub(crate) const FIRST_COPY: RawFd = 10;

/// A copy of an open descriptor, from `FIRST_COPY` on. A program that takes the place of this one inherits it.
pub(crate) fn copy_of(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: F_DUPFD takes two integers; the descriptor that it returns is new and owned by nothing else.
    unsafe {
        let copy = libc::fcntl(fd, libc::F_DUPFD, FIRST_COPY);
        (copy >= 0).then(|| OwnedFd::from_raw_fd(copy))
    }
}

/// Takes over a descriptor that `copy_of` made in the program before this one in this process. None: it is not open.
pub(crate) fn take(fd: RawFd) -> Option<OwnedFd> {
    stat(fd)?;
    // SAFETY: the descriptor is open, and before `main` nothing in this process owns it.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes standard error a copy of an open descriptor, which stays open.
pub(crate) fn redirect_stderr(to: RawFd) -> io::Result<()> {
    // SAFETY: dup2 takes two integers; standard error belongs to nothing that would be closed with it.
    let done = unsafe { libc::dup2(to, libc::STDERR_FILENO) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A limit of this process. `u64::MAX`: unlimited.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Limit {
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

impl Limit {
    /// Of open files.
    pub(crate) fn open_files() -> Limit {
        prlimit(libc::RLIMIT_NOFILE as libc::c_long, None).unwrap_or(Limit::NONE)
    }

    pub(crate) fn set_open_files(self) -> io::Result<()> {
        prlimit(libc::RLIMIT_NOFILE as libc::c_long, Some(self)).map(drop)
    }

    /// Of the bytes of one file.
    pub(crate) fn file_size() -> Limit {
        prlimit(libc::RLIMIT_FSIZE as libc::c_long, None).unwrap_or(Limit::NONE)
    }

    const NONE: Limit = Limit { soft: u64::MAX, hard: u64::MAX };
}

/// Returns a limit as it was. The call has 64 bits on every target, `getrlimit` not.
fn prlimit(resource: libc::c_long, new: Option<Limit>) -> io::Result<Limit> {
    let new = new.as_ref().map_or(ptr::null(), ptr::from_ref);
    let mut old = Limit::NONE;
    // SAFETY: a `Limit` has the layout of the kernel's `struct rlimit64`, and both live during the call.
    let done = unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, &raw mut old) };
    if done == 0 { Ok(old) } else { Err(io::Error::last_os_error()) }
}

/// Whether this signal is ignored by this process now.
pub(crate) fn is_ignored(signal: libc::c_int) -> bool {
    let mut old = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: with a null new action, sigaction only writes the old one; zeroed is a valid value
    // of the type should it fail.
    let old = unsafe {
        libc::sigaction(signal, ptr::null(), old.as_mut_ptr());
        old.assume_init()
    };
    old.sa_sigaction == libc::SIG_IGN
}

/// Gives a signal its default action.
pub(crate) fn default_action(signal: libc::c_int) {
    // SAFETY: SIG_DFL is a valid disposition for every signal and runs no code of this process.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

/// Where a signal came from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignalSender {
    Kernel,
    /// 0 is any process outside our pid namespace.
    Process {
        pid: libc::pid_t,
        uid: libc::uid_t,
    },
    Unknown,
}

/// The sender of a signal that the kernel described by `info`. May be called in a signal handler.
pub(crate) fn sender(info: &libc::siginfo_t) -> SignalSender {
    match info.si_code {
        libc::SI_KERNEL => SignalSender::Kernel,
        // kill, tkill, sigqueue and mq_notify.
        libc::SI_USER | libc::SI_TKILL | libc::SI_QUEUE | libc::SI_MESGQ => {
            // SAFETY: signals with these codes have both fields, which the kernel has filled in.
            let (pid, uid) = unsafe { (info.si_pid(), info.si_uid()) };
            SignalSender::Process { pid, uid }
        }
        _ => SignalSender::Unknown,
    }
}

/// When the first and the second signal to stop came, in milliseconds after `end_at_third`; 0: none came.
static STOPS: [AtomicU64; 2] = [AtomicU64::new(0), AtomicU64::new(0)];

/// Makes the third of `signals` end the process by that signal's default action, whatever its threads do: a signal
/// handler counts them, so no thread has to be free. Signals within `apart[0]` of the first count as the first, those
/// within `apart[1]` of the second as the second, and those that the process `manager` sends not at all.
pub(crate) fn end_at_third(
    signals: &[libc::c_int],
    apart: [Duration; 2],
    manager: Option<libc::pid_t>,
) -> io::Result<()> {
    let start = Instant::now();
    for &signal in signals {
        let count = move |info: &libc::siginfo_t| {
            if matches!(sender(info), SignalSender::Process { pid, .. } if manager == Some(pid)) {
                return;
            }
            let now = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
            for (stop, apart) in STOPS.iter().zip(apart) {
                match stop.compare_exchange(0, now, Ordering::SeqCst, Ordering::SeqCst) {
                    Ok(_) => return,
                    Err(earlier) if u128::from(now.saturating_sub(earlier)) < apart.as_millis() => return,
                    Err(_) => {}
                }
            }
            end_by(signal);
        };
        // SAFETY: the handler reads a clock, changes atomics, and ends the process, all of which are
        // async-signal-safe; it neither allocates nor locks nor panics.
        unsafe { signal_hook_registry::register_sigaction(signal, count) }?;
    }
    Ok(())
}

/// Makes the next signal to stop count as the third.
pub(crate) fn end_at_next() {
    STOPS.iter().for_each(|stop| stop.store(1, Ordering::SeqCst));
}

/// Ends the process by the signal, or by `_exit` as PID 1, to which the kernel applies no default action.
fn end_by(signal: libc::c_int) {
    if nix::unistd::getpid().as_raw() == 1 {
        // SAFETY: it ends the process without running any of its code.
        unsafe { libc::_exit(128_i32.saturating_add(signal)) };
    }
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}

/// A descriptor that becomes readable when process `pid` ends. `ErrorKind::Unsupported` before
/// Linux 5.3.
#[expect(clippy::cast_possible_truncation, reason = "a descriptor")]
pub(crate) fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers; the descriptor it returns is new and owned by nothing else. The kernel makes
    // it CLOEXEC.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0);
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Whether this is a pseudo-terminal (tmux, sshd, terminal windows), not a console or a serial line.
pub(crate) fn is_pty(terminal: BorrowedFd<'_>) -> bool {
    // fstat would describe /dev/tty, if it was opened by that name.
    let mut device: libc::c_uint = 0;
    // SAFETY: the kernel writes one unsigned int, which lives.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGDEV, &raw mut device) };
    // UNIX98_PTY_SLAVE_MAJOR, of which there are eight.
    done == 0 && matches!(libc::major(device.into()), 136..=143)
}

/// Kills the process of a pidfd, never another one that has reused its number.
pub(crate) fn pidfd_kill(pidfd: BorrowedFd<'_>) -> io::Result<()> {
    let info: *const libc::siginfo_t = ptr::null();
    // SAFETY: pidfd_send_signal takes integers and a pointer that may be null.
    let done =
        unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), libc::SIGKILL, info, 0) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The status of a pidfd's process, as `waitpid` has it; None before its parent has reaped it.
///
/// # Errors
/// A kernel that does not report it: Linux before 6.13, or before 6.15 if the process has ended.
pub(crate) fn pidfd_exit_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    let mut info = MaybeUninit::<libc::pidfd_info>::zeroed();
    // SAFETY: zeroes are a value of this struct of integers. The request reads and writes at most as many bytes as its number
    // says, which is the size of the struct.
    let (done, info) = unsafe {
        (*info.as_mut_ptr()).mask = libc::PIDFD_INFO_EXIT.into();
        (libc::ioctl(pidfd.as_raw_fd(), libc::PIDFD_GET_INFO, info.as_mut_ptr()), info.assume_init())
    };
    if done < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((info.mask & u64::from(libc::PIDFD_INFO_EXIT) != 0).then_some(info.exit_code))
}

/// Accepts one connection: CLOEXEC and non-blocking from birth.
pub(crate) fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, Option<SocketAddr>)> {
    // SAFETY: accept4 writes at most `*length` bytes of address and sets `*length` to what it
    // wrote, as try_init asks; the descriptor it returns is new and ours.
    let (fd, address) = unsafe {
        SockAddr::try_init(|storage, length| {
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            match libc::accept4(listener.as_raw_fd(), storage.cast(), length, flags) {
                fd if fd < 0 => Err(io::Error::last_os_error()),
                fd => Ok(OwnedFd::from_raw_fd(fd)),
            }
        })
    }?;
    Ok((fd, address.as_socket()))
}

/// Receives bytes from a socket. This, `send` and `epoll_wait` make the system call themselves: the functions of the C library with
/// these names are points where a thread may be cancelled, and change the thread's state atomically twice. No thread here is ever
/// cancelled.
///
/// # Errors
/// Those of the system call.
pub(crate) fn recv(socket: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    let (flags, no_address) = (0 as libc::c_long, ptr::null_mut::<libc::sockaddr>());
    // SAFETY: recvfrom writes at most as many bytes as `buf` has; without an address it receives as recv does. It takes the
    // kernel 60 ns less than read.
    outcome(unsafe {
        let (start, length, none) = (buf.as_mut_ptr(), buf.len(), ptr::null_mut::<libc::socklen_t>());
        libc::syscall(libc::SYS_recvfrom, long(socket), start, length, flags, no_address, none)
    })
}

/// Sends on a socket.
///
/// # Errors
/// Those of the system call.
pub(crate) fn send(socket: BorrowedFd<'_>, buf: &[u8], flags: libc::c_int) -> io::Result<usize> {
    let (flags, no_address) = (libc::c_long::from(flags), ptr::null::<libc::sockaddr>());
    // SAFETY: sendto reads the bytes of `buf`; without an address it sends as send does.
    outcome(unsafe {
        let (start, length, none) = (buf.as_ptr(), buf.len(), 0 as libc::c_long);
        libc::syscall(libc::SYS_sendto, long(socket), start, length, flags, no_address, none)
    })
}

/// Waits for events, and returns them: as many as there is room for.
///
/// # Errors
/// Those of the system call.
pub(crate) fn epoll_wait<'a>(
    epoll: BorrowedFd<'_>,
    room: &'a mut [MaybeUninit<EpollEvent>],
    timeout: EpollTimeout,
) -> io::Result<&'a [EpollEvent]> {
    let most = room.len().min(i32::MAX as usize) as libc::c_long;
    let (timeout, same_mask) = (libc::c_long::from(i32::from(timeout)), ptr::null::<libc::sigset_t>());
    // SAFETY: epoll_pwait writes at most `most` events, and returns how many it has written; an `EpollEvent` is an `epoll_event`
    // and nothing else. Without a mask it waits as epoll_wait does, which not all processors have.
    unsafe {
        let (events, mask_bytes) = (room.as_mut_ptr().cast::<EpollEvent>(), size_of::<u64>());
        let found = outcome(libc::syscall(
            libc::SYS_epoll_pwait,
            long(epoll),
            events,
            most,
            timeout,
            same_mask,
            mask_bytes,
        ))?;
        Ok(std::slice::from_raw_parts(events, found))
    }
}

fn long(fd: BorrowedFd<'_>) -> libc::c_long {
    libc::c_long::from(fd.as_raw_fd())
}

fn outcome(result: libc::c_long) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// How many connections wait in the accept queue of a listening TCP socket. None if it is not one.
pub(crate) fn waiting_connections(listener: BorrowedFd<'_>) -> Option<usize> {
    /// The start of `tcp_info`, up to the field that has this count for a listener.
    #[derive(Default)]
    #[repr(C)]
    struct TcpInfo {
        state: u8,
        others: [u8; 7],
        times_and_sizes: [u32; 4],
        unacked: u32,
    }
    const LISTENS: u8 = 10;
    let mut info = TcpInfo::default();
    #[expect(clippy::cast_possible_truncation, reason = "28 bytes")]
    let mut length = size_of::<TcpInfo>() as libc::socklen_t;
    // SAFETY: getsockopt writes at most `length` bytes, those of `info`, in which all bytes are valid.
    let done = unsafe {
        libc::getsockopt(
            listener.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    (done == 0 && info.state == LISTENS).then_some(info.unacked as usize)
}

/// The length of a socket's option that is a number.
#[expect(clippy::cast_possible_truncation, reason = "four bytes")]
const NUMBER: libc::socklen_t = size_of::<libc::c_int>() as libc::socklen_t;

/// Sets an option of a socket that is a number and has no safe wrapper.
///
/// # Errors
/// Those of setsockopt.
pub(crate) fn set_option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: setsockopt reads the given number of bytes, those of `value`.
    let done =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), NUMBER) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// An option of a socket that is a number and has no safe wrapper.
///
/// # Errors
/// Those of getsockopt.
pub(crate) fn option(
    socket: BorrowedFd<'_>,
    level: libc::c_int,
    name: libc::c_int,
) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = NUMBER;
    // SAFETY: getsockopt writes at most `length` bytes, those of `value`.
    let done = unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// Moves the calling thread to a new network namespace, whose only device is a loopback that is down.
///
/// # Errors
/// Those of unshare: EPERM without CAP_SYS_ADMIN.
#[cfg(test)]
pub(crate) fn enter_new_network() -> io::Result<()> {
    // SAFETY: unshare takes an integer; with this flag it changes what the calling thread creates from now on.
    let done = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A TUN device of the calling thread's network: what is written to it arrives there as an IP packet, and what
/// is sent by it can be read. Its packets have no header before them.
///
/// # Errors
/// Those of opening /dev/net/tun and of TUNSETIFF.
#[cfg(test)]
pub(crate) fn tun(name: &CStr) -> io::Result<std::fs::File> {
    let file = std::fs::File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an ifreq is numbers and a union of such.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.to_bytes_with_nul()) {
        *to = from.cast_signed() as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives.
    let done = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(file) }
}

/// Receives one packet with the descriptors that came beside it, CLOEXEC, without waiting: its length,
/// and whether the packet or its descriptors were cut short.
///
/// # Errors
/// `WouldBlock` when there is none.
pub(crate) fn receive(socket: BorrowedFd<'_>, packet: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>, bool)> {
    // As many as one packet can carry (SCM_MAX_FD), in what is aligned for a header.
    #[expect(clippy::cast_possible_truncation, reason = "a kilobyte")]
    const DESCRIPTORS: u32 = 253 * size_of::<RawFd>() as u32;
    let mut control = [0u64; 256];
    let mut part = libc::iovec { iov_base: packet.as_mut_ptr().cast(), iov_len: packet.len() };
    // SAFETY: all zeroes is a valid msghdr: null pointers with zero lengths.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE only computes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(DESCRIPTORS) } as _;
    const { assert!(DESCRIPTORS as usize + 64 <= 256 * size_of::<u64>()) };
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the message points to one buffer and one control buffer, both ours, alive and of the
    // lengths given.
    let n = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let n = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
    let mut fds = Vec::new();
    // SAFETY: the kernel filled the control buffer up to msg_controllen, which CMSG_FIRSTHDR and
    // CMSG_NXTHDR go by; a header's data has cmsg_len bytes less the header. The descriptors in it
    // are new, and taken once: also when the message is cut short, for those that fit are open.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(&raw const message);
        while !header.is_null() {
            let of_rights =
                (*header).cmsg_level == libc::SOL_SOCKET && (*header).cmsg_type == libc::SCM_RIGHTS;
            if of_rights {
                let bytes = ((*header).cmsg_len as usize).saturating_sub(libc::CMSG_LEN(0) as usize);
                let data = libc::CMSG_DATA(header).cast::<RawFd>();
                for index in 0..bytes.div_euclid(size_of::<RawFd>()) {
                    fds.push(OwnedFd::from_raw_fd(data.add(index).read_unaligned()));
                }
            }
            header = libc::CMSG_NXTHDR(&raw const message, header);
        }
    }
    let truncated = message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0;
    Ok((n, fds, truncated))
}

/// A program to start.
pub(crate) struct Spawn<'a> {
    pub(crate) path: &'a CStr,
    pub(crate) argv: &'a [CString],
    pub(crate) env: &'a [CString],
    /// None: the caller's.
    pub(crate) cwd: Option<&'a CStr>,
    /// What the program finds as descriptors 3, 4, ...
    pub(crate) fds: &'a [BorrowedFd<'a>],
    /// Blocked in the program from its first instruction.
    pub(crate) mask: &'a SigSet,
    /// Not ignored in the program, although ignored here.
    pub(crate) defaults: &'a SigSet,
    pub(crate) session: Session,
}

/// The session of a program that is started.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Session {
    Shared,
    /// It leads a new one, which has no terminal.
    Own,
}

/// Starts a program by `posix_spawn`: no page of this process is copied or write-protected, and
/// between fork and exec runs only libc's own code.
///
/// # Errors
/// Those of execve (ENOENT, EACCES, ENOEXEC, ETXTBSY) and of making descriptors.
pub(crate) fn spawn(spawn: &Spawn<'_>) -> io::Result<Pid> {
    let sources = sources(spawn)?;
    let (argv, env) = (pointers(spawn.argv), pointers(spawn.env));
    #[expect(clippy::cast_possible_truncation, reason = "as the call has them")]
    let mut flags = (libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF) as libc::c_short;
    if spawn.session == Session::Own {
        flags |= libc::POSIX_SPAWN_SETSID;
    }

    let mut actions = MaybeUninit::<libc::posix_spawn_file_actions_t>::uninit();
    let mut attributes = MaybeUninit::<libc::posix_spawnattr_t>::uninit();
    let mut pid: libc::pid_t = 0;
    // SAFETY: `actions` and `attributes` are initialised by their init functions before use and
    // destroyed after; every string is NUL-terminated and outlives the call, as do the
    // null-terminated arrays of pointers to them; posix_spawn does not write through them.
    unsafe {
        check(libc::posix_spawn_file_actions_init(actions.as_mut_ptr()))?;
        let actions = DestroyOnDrop(actions.as_mut_ptr(), libc::posix_spawn_file_actions_destroy);
        check(libc::posix_spawnattr_init(attributes.as_mut_ptr()))?;
        let attributes = DestroyOnDrop(attributes.as_mut_ptr(), libc::posix_spawnattr_destroy);

        for (target, source) in (3..).zip(&sources) {
            check(libc::posix_spawn_file_actions_adddup2(actions.0, source.as_raw_fd(), target))?;
        }
        if let Some(cwd) = spawn.cwd {
            check(libc::posix_spawn_file_actions_addchdir_np(actions.0, cwd.as_ptr()))?;
        }
        check(libc::posix_spawnattr_setsigmask(attributes.0, spawn.mask.as_ref()))?;
        check(libc::posix_spawnattr_setsigdefault(attributes.0, spawn.defaults.as_ref()))?;
        check(libc::posix_spawnattr_setflags(attributes.0, flags))?;
        check(libc::posix_spawn(
            &raw mut pid,
            spawn.path.as_ptr(),
            actions.0,
            attributes.0,
            argv.as_ptr(),
            env.as_ptr(),
        ))?;
    }
    Ok(Pid::from_raw(pid))
}

/// Copies of the descriptors, above the numbers that the program finds them by: so no dup2 overwrites the source of a later
/// one, and none is onto itself (which would leave it CLOEXEC).
fn sources(spawn: &Spawn<'_>) -> io::Result<Vec<OwnedFd>> {
    let above = RawFd::try_from(spawn.fds.len()).map_err(io::Error::other)?.saturating_add(3);
    let copy = |fd: &BorrowedFd<'_>| {
        let fd = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(above))?;
        // SAFETY: F_DUPFD_CLOEXEC returned a new descriptor, which nothing else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    };
    spawn.fds.iter().map(copy).collect()
}

/// Strings as the exec family takes them.
fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    let mut pointers: Vec<_> = strings.iter().map(|s| s.as_ptr().cast_mut()).collect();
    pointers.push(ptr::null_mut());
    pointers
}

/// What a new process does before it runs its program.
struct SiblingStart<'a> {
    spawn: &'a Spawn<'a>,
    sources: &'a [OwnedFd],
    argv: *const *mut libc::c_char,
    env: *const *mut libc::c_char,
    /// Why the program was not started. Written by the new process, which shares this memory.
    error: AtomicI32,
}

/// For the few calls of `start_sibling`.
const SIBLING_STACK: usize = 64 << 10;

/// Starts a program as `spawn` does, but as a child of this process's parent, which also reaps it. Returns its pid and a
/// pidfd. `Ok(None)` where the kernel, or a filter of system calls, does not allow that.
///
/// As `posix_spawn` does it: the new process shares the memory of this one and runs on a stack of its own, while the
/// calling thread waits until it has run its program or has ended. It is no call of posix_spawn, which has no such flag.
///
/// # Errors
/// As `spawn`.
pub(crate) fn spawn_sibling(spawn: &Spawn<'_>) -> io::Result<Option<(Pid, OwnedFd)>> {
    let sources = sources(spawn)?;
    let (argv, env) = (pointers(spawn.argv), pointers(spawn.env));
    let error = AtomicI32::new(0);
    let start = SiblingStart { spawn, sources: &sources, argv: argv.as_ptr(), env: env.as_ptr(), error };
    let mut stack = vec![MaybeUninit::<u128>::uninit(); SIBLING_STACK.div_euclid(size_of::<u128>())];
    let top = stack.as_mut_ptr_range().end;
    let mut pidfd: libc::c_int = -1;
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PARENT | libc::CLONE_PIDFD | libc::SIGCHLD;
    // No handler of this process may run in the new one, whose memory is the same.
    let mut old = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut old))?;
    let argument = (&raw const start).cast_mut().cast();
    // SAFETY: `start_sibling` gets a pointer to `start`, which outlives it, since CLONE_VFORK suspends this thread until the
    // new process has left this memory; the stack is ours, aligned, large enough for the few frames, and outlives it too.
    // The kernel writes the pidfd, a new descriptor, to the pointer that follows the argument.
    let pid = unsafe { libc::clone(start_sibling, top.cast(), flags, argument, &raw mut pidfd) };
    let refused = io::Error::last_os_error();
    let restored = pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&old), None);
    // SAFETY: the kernel has made it for us, if it is a descriptor at all.
    let pidfd = (pid > 0 && pidfd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(pidfd) });
    restored?;
    match start.error.load(Ordering::SeqCst) {
        0 => {}
        e => return Err(io::Error::from_raw_os_error(e)),
    }
    match (pid, pidfd) {
        (pid, Some(pidfd)) => Ok(Some((Pid::from_raw(pid), pidfd))),
        // The caller has made sure that there are pidfds.
        (1.., None) => Err(io::Error::other("no pidfd of the new process")),
        _ => match refused.raw_os_error() {
            Some(libc::EINVAL | libc::EPERM | libc::ENOSYS) => Ok(None),
            _ => Err(refused),
        },
    }
}

/// Runs the program in place of this new process. Only calls that are async-signal-safe: another thread of the process
/// whose memory this is may hold any lock.
extern "C" fn start_sibling(argument: *mut libc::c_void) -> libc::c_int {
    // SAFETY: the pointer is that of `spawn_sibling`, to a value that lives. All calls take integers or pointers into it:
    // NUL-terminated strings and null-terminated arrays of such. A zeroed sigaction is SIG_DFL with no flags.
    unsafe {
        let start = &*argument.cast::<SiblingStart<'_>>();
        // Handlers are not shared with the first process, but would run in its memory.
        let mut action: libc::sigaction = std::mem::zeroed();
        for signal in 1..=64 {
            let is_handled = libc::sigaction(signal, ptr::null(), &raw mut action) == 0
                && action.sa_sigaction != libc::SIG_DFL
                && action.sa_sigaction != libc::SIG_IGN;
            let by_default = libc::sigismember(start.spawn.defaults.as_ref(), signal) == 1;
            if is_handled || by_default {
                let default: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, &raw const default, ptr::null_mut());
            }
        }
        let mut failed = start.spawn.session == Session::Own && libc::setsid() < 0;
        let mut target: libc::c_int = 3;
        for source in start.sources {
            failed = failed || libc::dup2(source.as_raw_fd(), target) < 0;
            target = target.wrapping_add(1);
        }
        if let Some(cwd) = start.spawn.cwd {
            failed = failed || libc::chdir(cwd.as_ptr()) < 0;
        }
        if !failed {
            libc::pthread_sigmask(libc::SIG_SETMASK, start.spawn.mask.as_ref(), ptr::null_mut());
            libc::execve(start.spawn.path.as_ptr(), start.argv.cast(), start.env.cast());
        }
        let error = io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        start.error.store(error, Ordering::SeqCst);
        libc::_exit(127);
    }
}

/// Replaces the program of this process, which keeps its pid and finds `kept` open under the same numbers. Returns only
/// if that fails.
pub(crate) fn exec(path: &CStr, argv: &[CString], env: &[CString], kept: &[BorrowedFd<'_>]) -> io::Error {
    let (argv, env) = (pointers(argv), pointers(env));
    let set = |flag: nix::fcntl::FdFlag| {
        kept.iter().try_for_each(|fd| fcntl(fd, FcntlArg::F_SETFD(flag)).map(drop))
    };
    if let Err(e) = set(nix::fcntl::FdFlag::empty()) {
        return e.into();
    }
    // SAFETY: every string is NUL-terminated and lives, as do the null-terminated arrays of pointers to them; execve
    // does not write through them.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr().cast(), env.as_ptr().cast()) };
    let error = io::Error::last_os_error();
    let _ = set(nix::fcntl::FdFlag::FD_CLOEXEC);
    error
}

/// Ends the process without running anything else of it.
pub(crate) fn exit_now(status: libc::c_int) -> ! {
    // SAFETY: it ends the process without running any of its code.
    unsafe { libc::_exit(status) }
}

/// Has `$function` called before `main`.
macro_rules! before_main {
    ($function:path) => {
        // SAFETY: the section is an array of such functions, which the C library calls once each, on the only thread there
        // is. This one uses of std only what needs no set-up by `main`: the environment, descriptors and memory.
        #[allow(unsafe_code)]
        #[used]
        #[unsafe(link_section = ".init_array")]
        static BEFORE_MAIN: extern "C" fn() = $function;
    };
}
pub(crate) use before_main;

/// The posix_spawn family returns its error instead of setting errno.
fn check(error: libc::c_int) -> io::Result<()> {
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

/// Destroys what a posix_spawn init function made.
struct DestroyOnDrop<T>(*mut T, unsafe extern "C" fn(*mut T) -> libc::c_int);

impl<T> Drop for DestroyOnDrop<T> {
    fn drop(&mut self) {
        // SAFETY: the pointee was initialised by the matching init function, and outlives the
        // guard, which borrows it for the scope of one call.
        unsafe { (self.1)(self.0) };
    }
}
