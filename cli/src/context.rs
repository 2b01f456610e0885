//! What `main` hands to every verb: where to print, the environment, and where the operator's
//! files are.

use std::path::PathBuf;

use jiff::Zoned;
use proto::env::Env;
use proto_types::LogTime;

use crate::args::Global;
use crate::error::{CliError, Result};
use crate::output::Screen;

/// What a verb takes from outside.
pub struct Context {
    /// Where it prints.
    pub screen: Screen,
    /// Clock, randomness, network, tasks.
    pub env: Env,
    /// The present, in the person's time zone.
    pub now: Zoned,
    operator_dir: Option<PathBuf>,
}

impl Context {
    /// The process's own. `home` is the person's home directory.
    #[must_use]
    pub fn of_process(global: &Global, home: Option<PathBuf>) -> Self {
        let operator_dir = global
            .operator_dir
            .clone()
            .or_else(|| home.map(|home| home.join(".config").join("strongroom")));
        Self {
            screen: Screen::of_process(global.output),
            env: Env::system(),
            now: Zoned::now(),
            operator_dir,
        }
    }

    /// The directory of `operator.toml`.
    ///
    /// # Errors
    /// When none was given and there is no home directory.
    pub fn operator_dir(&self) -> Result<PathBuf> {
        self.operator_dir.clone().ok_or_else(|| {
            CliError::usage("it is not known where operator.toml is")
                .with_remedy("give --operator-dir DIR or set STRONGROOM_OPERATOR_DIR")
        })
    }

    /// The present by the clock that was handed in.
    #[must_use]
    pub fn log_now(&self) -> LogTime {
        self.env.clock.now()
    }
}
