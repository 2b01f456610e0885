//! Hosts with addresses of their own: network namespaces on a bridge, which is in a namespace too,
//! so that the machine's own network is not touched. Needs root; where that is missing the test
//! says that it was skipped.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Some hosts on one wire; taken away on drop.
#[derive(Debug)]
pub struct Net {
    prefix: String,
    hosts: u8,
}

/// Runs `ip` with these words; whether it succeeded.
fn ip(words: &str) -> bool {
    let run = Command::new("ip")
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    run.is_ok_and(|status| status.success())
}

impl Net {
    /// Makes so many hosts, numbered from 1. `None` when that is not permitted, or there is no `ip`.
    #[must_use]
    pub fn make(hosts: u8) -> Option<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let net = Self { prefix: format!("srt-{}-{number}", std::process::id()), hosts };
        net.build().then_some(net)
    }

    fn build(&self) -> bool {
        let wire = self.wire();
        ip(&format!("netns add {wire}"))
            && ip(&format!("-n {wire} link add wire type bridge"))
            && ip(&format!("-n {wire} link set wire up"))
            && (1..=self.hosts).all(|number| {
                let host = self.host(number);
                ip(&format!("netns add {host}"))
                    && ip(&format!(
                        "-n {wire} link add port{number} type veth peer name eth0 netns {host}"
                    ))
                    && ip(&format!("-n {wire} link set port{number} master wire up"))
                    && ip(&format!("-n {host} address add {}/24 dev eth0", Self::ip_of(number)))
                    && ip(&format!("-n {host} link set lo up"))
                    && ip(&format!("-n {host} link set eth0 up"))
            })
    }

    fn wire(&self) -> String {
        format!("{}-wire", self.prefix)
    }

    /// The namespace of a host.
    #[must_use]
    pub fn host(&self, number: u8) -> String {
        format!("{}-{number}", self.prefix)
    }

    /// The address of a host.
    #[must_use]
    pub fn ip_of(number: u8) -> String {
        format!("10.77.0.{number}")
    }

    /// Takes a host off the wire: nothing comes in or goes out, and nobody is told.
    ///
    /// # Panics
    /// When that fails.
    pub fn cut(&self, number: u8) {
        assert!(ip(&format!("-n {} link set port{number} down", self.wire())), "host {number}");
    }

    /// Puts it back.
    ///
    /// # Panics
    /// When that fails.
    pub fn mend(&self, number: u8) {
        assert!(ip(&format!("-n {} link set port{number} up", self.wire())), "host {number}");
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for number in 1..=self.hosts {
            ip(&format!("netns delete {}", self.host(number)));
        }
        ip(&format!("netns delete {}", self.wire()));
    }
}
