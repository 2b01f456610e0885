//! What the process ends with, in words; the numbers themselves are `proto_types::Code`'s.

/// For `--help`. A test compares it with the codes.
pub const HELP: &str = "\
Exit codes:
  0  done
  1  a bug, or a file of this machine that cannot be used (INTERNAL, LOCAL_IO)
  2  usage or config (INVALID_ARGUMENT, INVALID_CONFIG)
  3  not reachable or busy, try again (UNAVAILABLE, BUSY, DEADLINE_EXCEEDED, ADDRESS_IN_USE)
  4  refused (PERMISSION_DENIED, STALE_EPOCH, KEY_BUNDLE_INCOMPLETE, ALREADY_EXISTS, ...)
  5  not found (CLUSTER_NOT_FOUND, POINT_NOT_FOUND, BUNDLE_NOT_FOUND, NOTHING_MATCHES)
  6  damaged, not proved or not whole (DAMAGED, BAD_SIGNATURE, ROLLBACK, NOT_EQUAL, PARTIAL, ...)
  7  wrong or missing key (WRONG_KEY, KEY_MISSING, KEY_TOO_SHORT)
  8  something is in the way at the target (CONFLICT)
  9  out of resources (NO_SPACE, RESOURCE_EXHAUSTED)

Every error is printed on standard error as `error[CODE]: sentence`, with --output json as
{\"error\":{\"code\":..,\"message\":..,\"remedy\":..}}. All codes and JSON forms: docs/cli.md.";

#[cfg(test)]
mod tests {
    use proto_types::Code;

    use super::HELP;

    #[test]
    fn every_named_code_stands_on_its_line() {
        let mut named = 0;
        for line in HELP.lines() {
            let Some((number, rest)) = line.trim().split_once("  ") else { continue };
            let Ok(number) = number.parse::<u8>() else { continue };
            for word in rest.split(|c: char| !(c.is_ascii_uppercase() || c == '_')) {
                if let Ok(code) = word.parse::<Code>() {
                    assert_eq!(code.exit_code(), number, "{word}");
                    named += 1;
                }
            }
        }
        assert_eq!(named, 27);
    }
}
