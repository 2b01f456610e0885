//! Entry of the one binary: command line, log, TLS provider, runtime, verb, exit code.

use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use cli::args::{self, Cli, Format, Parsed};
use cli::context::Context;
use cli::error::{CliError, Result};
use cli::output::Screen;
use cli::telemetry;
use proto_types::Code;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match args::parse(std::env::args_os()) {
        Parsed::Print(text) => end(Screen::of_process(Format::Table).text(&text), Format::Table),
        Parsed::Refused(error, format) => end(Err(error), format),
        Parsed::Run(cli) => {
            let format = cli.global.output;
            let done = std::panic::catch_unwind(AssertUnwindSafe(|| start(*cli)));
            end(done.unwrap_or_else(|_| Err(bug())), format)
        }
    }
}

fn start(cli: Cli) -> Result<()> {
    let usual = if cli::is_server(&cli) { "info,openraft=warn" } else { "error" };
    telemetry::start(cli.global.log, cli.global.log_level.as_deref(), usual)?;
    proto::tls::install_crypto_provider();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(|error| {
            CliError::new(Code::Internal, format!("the runtime does not start: {error}"))
        })?;
    let home = std::env::var_os("HOME").map(std::path::PathBuf::from);
    let context = Context::of_process(&cli.global, home);
    let done = runtime.block_on(cli::run(cli, &context));
    // Whatever had to be finished is finished; a thread that still waits for standard input, as
    // under `dev`, must not keep the process.
    runtime.shutdown_background();
    done
}

fn end(result: Result<()>, format: Format) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    if let Some(text) = error.render(format) {
        // There is nobody left to tell that standard error is closed.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }
    error.exit_code()
}

fn bug() -> CliError {
    CliError::new(Code::Internal, "the program ended by a fault of its own; see the log above")
}
