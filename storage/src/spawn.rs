//! How this package gets a thread: through [`Spawn`], handed in, so that a simulation can do
//! without any. Async tasks are not its business.

use std::fmt;
use std::io;
use std::sync::Arc;

/// Work for a thread of its own.
pub type Task = Box<dyn FnOnce() + Send + 'static>;

/// Starts threads.
pub trait Spawn: Send + Sync + fmt::Debug + 'static {
    /// Runs `task` on a new thread of that name.
    ///
    /// # Errors
    /// When the system gives no thread.
    fn spawn(&self, name: &str, task: Task) -> io::Result<()>;
}

/// Threads of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct ThreadSpawn;

impl Spawn for ThreadSpawn {
    fn spawn(&self, name: &str, task: Task) -> io::Result<()> {
        std::thread::Builder::new().name(name.to_owned()).spawn(task).map(drop)
    }
}

/// Where the log's writer runs.
#[derive(Debug, Clone)]
pub enum Driver {
    /// On a thread of its own: writes of many callers share one fdatasync.
    Thread(Arc<dyn Spawn>),
    /// On the caller's thread, before the call returns: no thread, no time, the same order of
    /// disk operations on every run. For simulations and crash suites.
    Inline,
}

impl Driver {
    /// The driver of a real coordinator.
    #[must_use]
    pub fn threads() -> Self {
        Self::Thread(Arc::new(ThreadSpawn))
    }
}
