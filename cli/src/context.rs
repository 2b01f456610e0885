//! What `main` hands to every verb: where to print, the environment, and where the operator's
//! files are.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Zoned;
use proto::env::Env;
use proto::fleet_client::FleetClient;
use proto::renewal;
use proto::tls::{TlsFiles, TlsMaterial};
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
    used: Mutex<Option<Used>>,
}

/// The operator's certificate that a verb used.
struct Used {
    files: TlsFiles,
    tls: TlsMaterial,
    client: Arc<FleetClient>,
}

/// A verb that is done waits this long for its certificate to be renewed, and no longer.
const RENEWAL: Duration = Duration::from_secs(10);

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
            used: Mutex::new(None),
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

    /// Notes that a verb shows this certificate to the fleet.
    pub(crate) fn uses(&self, files: TlsFiles, tls: TlsMaterial, client: Arc<FleetClient>) {
        let used = Some(Used { files, tls, client });
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = used;
    }

    /// Renews the certificate that was used, where two thirds of its life are over. What keeps it
    /// from that is told and ends nothing: it is still valid.
    pub(crate) async fn renew_if_due(&self) {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner).take();
        let due = used.filter(|used| used.tls.facts().renews() <= self.env.clock.now());
        let Some(Used { files, tls, client }) = due else { return };
        let ask = |request| {
            let client = client.clone();
            async move { renewal::ask(&client, request).await }
        };
        let renewing = renewal::once(&self.env, &files, &tls, &ask);
        match tokio::time::timeout(RENEWAL, renewing).await {
            Ok(Ok(())) => self.screen.note("your certificate was renewed"),
            Ok(Err(error)) => {
                self.screen.note(&format!("your certificate is not renewed: {error}"))
            }
            Err(_) => {
                self.screen.note("your certificate is not renewed: the fleet does not answer")
            }
        }
    }
}
