//! A figure: ours, the peer's or a limit, and the ratio, above 1 where we are better. One JSON object per
//! line for programs, a table for people.

use std::io::Write;

use anyhow::{Context, Result, bail};
use serde::Serialize;

/// Values of both sides, run by run.
#[derive(Debug, Default, Clone)]
pub(crate) struct Runs {
    /// Ours.
    pub(crate) ours: Vec<f64>,
    /// The peer's; empty when it is not installed.
    pub(crate) peer: Vec<f64>,
}

/// Which of two values is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Better {
    /// Times and sizes.
    Less,
    /// Rates.
    More,
}

/// What a figure is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    /// Stable name.
    pub(crate) name: &'static str,
    /// Unit of both values.
    pub(crate) unit: &'static str,
    /// Which of two values is the better one.
    pub(crate) better: Better,
    /// Smallest ratio that the project wants, if it wants one.
    pub(crate) target: Option<f64>,
    /// With whom it is compared.
    pub(crate) peer_name: &'static str,
    /// How to get the peer where it is not installed.
    pub(crate) how: &'static str,
    /// What exactly was measured.
    pub(crate) note: &'static str,
}

#[derive(Debug, Serialize)]
struct Line<'a> {
    name: &'static str,
    ours: f64,
    peer: Option<f64>,
    unit: &'static str,
    ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    how: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_ratio: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    meets_target: Option<bool>,
    peer_name: &'static str,
    ours_runs: Vec<f64>,
    peer_runs: Vec<f64>,
    note: &'a str,
    machine: &'a str,
}

/// Where figures go as soon as they are known.
#[derive(Debug)]
pub(crate) struct Report {
    json: bool,
    machine: String,
    rows: Vec<[String; 7]>,
    missed: Vec<&'static str>,
}

impl Report {
    /// JSON lines at once, or a table at the end.
    pub(crate) fn new(json: bool, machine: String) -> Self {
        let heads = ["FIGURE", "OURS", "PEER", "UNIT", "RATIO", "TARGET", "BESIDE"];
        Self { json, machine, rows: vec![heads.map(str::to_owned)], missed: Vec::new() }
    }

    /// Adds a figure; the medians of its runs are the values.
    pub(crate) fn add(&mut self, figure: Figure, runs: &Runs) -> Result<()> {
        let line = line(figure, runs, &self.machine)?;
        if line.meets_target == Some(false) {
            self.missed.push(line.name);
        }
        if self.json {
            let mut out = std::io::stdout().lock();
            serde_json::to_writer(&mut out, &line)?;
            out.write_all(b"\n")?;
            return Ok(out.flush()?);
        }
        let target = line.target_ratio.map(|target| {
            let met = line.meets_target.map_or("", |met| if met { ", met" } else { ", missed" });
            format!("{target}{met}")
        });
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        self.rows.push([
            line.name.to_owned(),
            line.ours.to_string(),
            or_dash(line.peer.map(|peer| peer.to_string())),
            line.unit.to_owned(),
            or_dash(line.ratio.map(|ratio| ratio.to_string())),
            or_dash(target),
            match line.how {
                None => line.peer_name.to_owned(),
                Some(how) => format!("{}: {how}", line.peer_name),
            },
        ]);
        Ok(())
    }

    /// Prints what was not printed yet.
    ///
    /// # Errors
    /// With `check`, when a target was missed; says which.
    pub(crate) fn finish(self, check: bool) -> Result<()> {
        self.print()?;
        if check && !self.missed.is_empty() {
            bail!("missed: {}", self.missed.join(", "));
        }
        Ok(())
    }

    fn print(&self) -> Result<()> {
        if self.json {
            return Ok(());
        }
        let mut out = std::io::stdout().lock();
        out.write_all(table(&self.rows).as_bytes())?;
        writeln!(out, "\nRATIO is above 1 where strongroom is better.\n{}", self.machine)?;
        Ok(())
    }
}

fn line<'a>(figure: Figure, runs: &Runs, machine: &'a str) -> Result<Line<'a>> {
    let ours = median(&runs.ours).with_context(|| format!("{} was not measured", figure.name))?;
    let peer = median(&runs.peer);
    // Nothing can be said of a ratio to what was too short to be counted.
    let ratio = peer.filter(|peer| ours > 0.0 && *peer > 0.0).map(|peer| match figure.better {
        Better::Less => peer / ours,
        Better::More => ours / peer,
    });
    Ok(Line {
        name: figure.name,
        ours: rounded(ours),
        peer: peer.map(rounded),
        unit: figure.unit,
        ratio: ratio.map(rounded),
        how: peer.is_none().then_some(figure.how),
        target_ratio: figure.target,
        meets_target: figure.target.and_then(|target| Some(ratio? >= target)),
        peer_name: figure.peer_name,
        ours_runs: runs.ours.iter().copied().map(rounded).collect(),
        peer_runs: runs.peer.iter().copied().map(rounded).collect(),
        note: figure.note,
        machine,
    })
}

/// To 0.1 ms, or to the byte.
fn rounded(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// The middle value, or the mean of the two in the middle.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let above = *sorted.get(sorted.len() / 2)?;
    let below = sorted[(sorted.len() - 1) / 2];
    Some(f64::midpoint(below, above))
}

fn table<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURE: Figure = Figure {
        name: "first_backup",
        unit: "s",
        better: Better::Less,
        target: Some(2.0),
        peer_name: "restic",
        how: "apt-get install restic",
        note: "n",
    };

    fn json(ours: &[f64], peer: &[f64]) -> String {
        let runs = Runs { ours: ours.to_vec(), peer: peer.to_vec() };
        serde_json::to_string(&line(FIGURE, &runs, "m").unwrap()).unwrap()
    }

    #[test]
    fn figure_line_has_the_ratio_above_one_where_ours_is_better() {
        assert_eq!(
            json(&[0.5, 0.25, 9.0], &[1.25, 1.0, 7.0]),
            r#"{"name":"first_backup","ours":0.5,"peer":1.25,"unit":"s","ratio":2.5,"target_ratio":2.0,"meets_target":true,"peer_name":"restic","ours_runs":[0.5,0.25,9.0],"peer_runs":[1.25,1.0,7.0],"note":"n","machine":"m"}"#
        );
        assert!(json(&[1.0], &[1.9]).contains(r#""meets_target":false"#));
    }

    #[test]
    fn figure_line_without_a_peer_says_how_to_get_it() {
        assert_eq!(
            json(&[0.5], &[]),
            r#"{"name":"first_backup","ours":0.5,"peer":null,"unit":"s","ratio":null,"how":"apt-get install restic","target_ratio":2.0,"peer_name":"restic","ours_runs":[0.5],"peer_runs":[],"note":"n","machine":"m"}"#
        );
    }

    #[test]
    fn figure_of_a_rate_is_better_when_it_is_more() {
        let rate = Figure { better: Better::More, target: Some(0.5), ..FIGURE };
        let runs = Runs { ours: vec![60.0], peer: vec![100.0] };
        let line = line(rate, &runs, "m").unwrap();
        assert_eq!((line.ratio, line.meets_target), (Some(0.6), Some(true)));
    }

    #[test]
    fn figure_that_misses_its_target_fails_a_checked_run_only() {
        let report = |ours: f64| {
            let mut report = Report::new(true, "m".to_owned());
            report.add(FIGURE, &Runs { ours: vec![ours], peer: vec![4.0] }).unwrap();
            report
        };
        assert!(report(2.1).finish(false).is_ok());
        let error = report(2.1).finish(true).unwrap_err();
        assert_eq!(error.to_string(), "missed: first_backup");
        assert!(report(1.9).finish(true).is_ok());
    }

    #[test]
    fn figure_line_needs_a_value_of_ours() {
        let runs = Runs { ours: Vec::new(), peer: vec![1.0] };
        assert!(line(FIGURE, &runs, "m").is_err());
    }

    #[test]
    fn figure_median_is_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0]), Some(3.0));
        assert_eq!(median(&[9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 9.0]), Some(3.0));
    }

    #[test]
    fn figure_table_is_aligned() {
        let rows = [["A", "B"], ["long", "x"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "A     B\nlong  x\n");
    }
}
