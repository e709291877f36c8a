//! The table of results.

use comfy_table::{Attribute, Cell, CellAlignment, Color, Table, TableStyle};
use serde::Serialize;

use crate::machine::Placement;
use crate::stats::{median, median_ratio};

/// One figure against its target.
#[derive(Clone, Serialize)]
pub(crate) struct Row {
    target: u8,
    what: String,
    placement: Placement,
    figure: String,
    baseline: String,
    ratio: Option<f64>,
    goal: String,
    /// `None` without a goal.
    met: Option<bool>,
}

impl Row {
    /// A figure without a goal.
    pub(crate) fn new(target: u8, what: &str, placement: Placement) -> Row {
        Row {
            target,
            what: what.to_owned(),
            placement,
            figure: String::new(),
            baseline: String::new(),
            ratio: None,
            goal: "stated".to_owned(),
            met: None,
        }
    }

    pub(crate) fn figure(&mut self, figure: impl Into<String>) -> &mut Row {
        self.figure = figure.into();
        self
    }

    pub(crate) fn against(&mut self, baseline: impl Into<String>, ratio: f64) -> &mut Row {
        self.baseline = baseline.into();
        self.ratio = Some(ratio);
        self
    }

    /// A number beside its baseline, both formatted by `tell`.
    pub(crate) fn beside(
        &mut self,
        tell: impl Fn(f64) -> String,
        own: f64,
        name: &str,
        other: f64,
    ) -> &mut Row {
        self.figure(tell(own))
            .against(format!("{name} {}", tell(other)), own / other)
    }

    /// The same for interleaved figures: the ratio is the median of each round's.
    pub(crate) fn by_turns(
        &mut self,
        tell: impl Fn(f64) -> String,
        own: &[f64],
        name: &str,
        other: &[f64],
    ) -> &mut Row {
        self.beside(tell, median(own), name, median(other));
        self.ratio = Some(median_ratio(own, other));
        self
    }

    pub(crate) fn goal(&mut self, goal: impl Into<String>, met: bool) {
        self.goal = goal.into();
        self.met = Some(met);
    }

    /// A goal for the ratio.
    pub(crate) fn ratio(&mut self, goal: impl Into<String>, met: impl Fn(f64) -> bool) {
        self.goal(goal, self.ratio.is_some_and(met));
    }

    pub(crate) fn ratio_at_most(&mut self, most: f64) {
        self.ratio(format!("≤ {most} ×"), |ratio| ratio <= most);
    }

    pub(crate) fn ratio_at_least(&mut self, least: f64) {
        self.ratio(format!("≥ {least} ×"), |ratio| ratio >= least);
    }

    pub(crate) fn is_missed(&self) -> bool {
        self.met == Some(false)
    }

    fn cells(&self) -> [String; 8] {
        [
            self.target.to_string(),
            self.what.clone(),
            self.placement.name().to_owned(),
            self.figure.clone(),
            self.baseline.clone(),
            self.ratio.map_or_else(String::new, times),
            self.goal.clone(),
            match self.met {
                Some(true) => "met".to_owned(),
                Some(false) => "missed".to_owned(),
                None => String::new(),
            },
        ]
    }
}

/// Sorts by target, and keeps the measurements of one figure together.
pub(crate) fn sort(rows: &mut [Row]) {
    let order: Vec<String> = rows.iter().map(|row| row.what.clone()).collect();
    rows.sort_by_key(|row| {
        let first = order.iter().position(|what| *what == row.what);
        (row.target, first)
    });
}

fn times(ratio: f64) -> String {
    if ratio >= 10.0 {
        format!("{ratio:.1} ×")
    } else {
        format!("{ratio:.2} ×")
    }
}

const HEADER: [&str; 8] = [
    "", "target", "CPU", "figure", "baseline", "ratio", "goal", "",
];

pub(crate) fn draw(rows: &[Row], style: TableStyle) -> Table {
    let mut table = Table::new();
    table.load_style(style).set_header(HEADER);
    for row in rows {
        let mut cells = row.cells().map(Cell::new);
        cells[5] = cells[5].clone().set_alignment(CellAlignment::Right);
        let last = cells[7].clone();
        cells[7] = match row.met {
            Some(true) => last.fg(Color::Green),
            Some(false) => last.fg(Color::Red).add_attribute(Attribute::Bold),
            None => last,
        };
        table.add_row(cells);
    }
    table
}

pub(crate) fn micros(micros: f64) -> String {
    format!("{micros:.1} µs")
}

/// A number with thousands separators.
pub(crate) fn grouped(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let numbers = [0.0, 999.4, 1000.0, 1_234_567.0];
        assert_eq!(numbers.map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn a_goal_is_met_at_its_bound() {
        let mut row = Row::new(1, "a", Placement::Free);
        row.figure("1").against("2", 1.0).ratio_at_most(1.0);
        let cells = ["1", "a", "any", "1", "2", "1.00 ×", "≤ 1 ×", "met"];
        assert_eq!(row.cells(), cells);
        row.ratio_at_least(1.01);
        assert!(row.is_missed());
    }
}
