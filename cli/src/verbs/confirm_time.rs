//! `strongroom fleet confirm-time`: an admin says that the coordinators' clocks are right, and time
//! that a jump froze goes on from what they say.

use proto::v1;
use proto::v1::fleet_client::FleetClient;
use proto_types::LogTime;
use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::operator;
use crate::when;

#[derive(Debug, Serialize)]
struct ConfirmedView {
    /// Whether time was frozen.
    was_frozen: bool,
    /// Log time from which it goes on, RFC 3339.
    log_time: String,
    /// The same in milliseconds since 1970.
    log_time_ms: u64,
}

pub(super) async fn run(context: &Context) -> Result<()> {
    let (_, client) = operator::connect(context)?;
    let request = v1::ConfirmTimeRequest { write_id: Some(client.next_write_id()) };
    let answer = client
        .call("confirming the time", |channel| {
            let request = request.clone();
            async move { FleetClient::new(channel).confirm_time(request).await }
        })
        .await?;
    let view = ConfirmedView {
        was_frozen: answer.was_frozen,
        log_time: crate::views::time(answer.log_time_ms),
        log_time_ms: answer.log_time_ms,
    };
    let zone = context.now.time_zone();
    context.screen.show(&view, |view| {
        let time = when::local(LogTime::from_millis(view.log_time_ms), zone);
        if view.was_frozen {
            format!("time goes on from {time}; leases count anew from there\n")
        } else {
            format!("time was not frozen; it is {time}\n")
        }
    })
}
