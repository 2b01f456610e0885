//! Sizes and rates as people write them: `64`, `512KiB`, `16MiB`, `1GB`. Binary units count by
//! 1024, decimal ones by 1000.

/// Parses a number of bytes.
///
/// # Errors
/// A sentence that says what is expected.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!("{text:?} is not a size: expected a whole number with an optional unit, as 16MiB")
    };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim().trim_end_matches("/s");
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kib" => 1 << 10,
        "m" | "mib" => 1 << 20,
        "g" | "gib" => 1 << 30,
        "t" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(wrong()),
    };
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is more than a number can hold"))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn sizes_table() {
        for (text, bytes) in [
            ("0", 0),
            ("64", 64),
            ("64B", 64),
            ("512KiB", 524_288),
            ("512 kib", 524_288),
            ("16MiB", 16_777_216),
            ("16M", 16_777_216),
            ("16MiB/s", 16_777_216),
            ("1GB", 1_000_000_000),
            ("2GiB", 2_147_483_648),
            ("1TiB", 1_099_511_627_776),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for bad in
            ["", "MiB", "1.5MiB", "-1", "1 MiBit", "1XB", "99999999999999999999", "16777216TiB"]
        {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
