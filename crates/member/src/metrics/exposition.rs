//! Prometheus' text format, version 0.0.4.

use std::fmt::{Display, Write};
use std::time::Duration;

/// What a scrape is answered as.
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The text as it grows.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

/// One metric with its samples.
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Exposition {
    pub(super) fn new() -> Exposition {
        Exposition::default()
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "gauge")
    }

    pub(super) fn counter(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "counter")
    }

    pub(super) fn histogram(&mut self, name: &'static str, help: &str) -> Family<'_> {
        self.family(name, help, "histogram")
    }

    fn family(&mut self, name: &'static str, help: &str, kind: &str) -> Family<'_> {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text: &mut self.text, name }
    }

    pub(super) fn finish(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// The one sample of a metric without labels.
    pub(super) fn one(&mut self, value: impl Into<u64>) {
        self.labelled(&[], value.into());
    }

    pub(super) fn seconds(&mut self, value: Duration) {
        self.labelled_seconds(&[], value);
    }

    pub(super) fn labelled(&mut self, labels: &[(&str, &str)], value: u64) {
        self.sample(labels, value);
    }

    pub(super) fn labelled_seconds(&mut self, labels: &[(&str, &str)], value: Duration) {
        self.sample(labels, value.as_secs_f64());
    }

    /// A histogram's samples, from counts between powers of two of microseconds. The first and the last of these are few, and
    /// many lines: buckets begin at 64 µs and end at 67 s.
    pub(super) fn buckets(&mut self, labels: &[(&str, &str)], counts: &[u64], sum_us: u64) {
        let total: u64 = counts.iter().sum();
        for power in 6..=26_usize {
            let below: u64 = counts.iter().take(power + 1).sum();
            let bound = Duration::from_micros(1 << power).as_secs_f64().to_string();
            self.suffixed("_bucket", &[labels, &[("le", &bound)]].concat(), below);
        }
        self.suffixed("_bucket", &[labels, &[("le", "+Inf")]].concat(), total);
        self.suffixed("_sum", labels, Duration::from_micros(sum_us).as_secs_f64());
        self.suffixed("_count", labels, total);
    }

    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.suffixed("", labels, value);
    }

    fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.text, "{}{suffix}{labels} {value}", self.name);
    }
}

/// In a label's value a backslash, a quotation mark and the end of a line are written with a backslash.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
