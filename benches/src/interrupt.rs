//! Ends every process that this program started when it is interrupted: on SIGINT or SIGTERM all
//! of them are killed by their own handle (a pidfd, so that no other process that got the same
//! number is ever hit), and whoever waits for one of them sees it end and cleans up on the way out.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::Child;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::signal::unix::{SignalKind, signal};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static NEXT: AtomicU64 = AtomicU64::new(0);
static CHILDREN: Mutex<BTreeMap<u64, OwnedFd>> = Mutex::new(BTreeMap::new());

fn children() -> MutexGuard<'static, BTreeMap<u64, OwnedFd>> {
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches for SIGINT and SIGTERM from now on.
pub(crate) fn watch() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut interrupt, mut terminate) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            });
            // Set first: who registers a child from here on sees it.
            INTERRUPTED.store(true, Ordering::SeqCst);
            for child in children().values() {
                // It may have ended by itself, which is what is wanted.
                let _ = pidfd_send_signal(child, Signal::KILL);
            }
        })
        .context("cannot start the thread that waits for signals")?;
    Ok(())
}

/// Fails once this program was interrupted. Called wherever something is waited for.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) {
        bail!("interrupted; all processes that were started are stopped");
    }
    Ok(())
}

/// A child that will be killed on an interrupt, until this is dropped.
#[derive(Debug)]
pub(crate) struct Registration(u64);

/// Registers a child that was just started and not yet waited for.
pub(crate) fn register(child: &mut Child) -> Result<Registration> {
    let registered = (|| {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("a child process has no id")?;
        let handle = pidfd_open(pid, PidfdFlags::empty())?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        children().insert(number, handle);
        let registration = Registration(number);
        check()?;
        Ok(registration)
    })();
    if registered.is_err() {
        // Nobody else will end it.
        child.kill().and_then(|()| child.wait()).context("cannot end a child process")?;
    }
    registered
}

impl Drop for Registration {
    fn drop(&mut self) {
        children().remove(&self.0);
    }
}
