//! The plots, as SVG.

use std::path::Path;

use anyhow::Result;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;

use crate::table::grouped;

const SIZE: (u32, u32) = (760, 440);

/// Colours that are also distinct to colour-blind readers (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];

/// Up to so many points are measured ones, and are marked; more are a distribution.
const MARKED: usize = 10;

/// The points that are drawn in one colour.
pub(crate) struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Series {
    pub(crate) fn new(name: &str, points: Vec<(f64, f64)>) -> Self {
        let name = name.to_owned();
        Series { name, points }
    }
}

pub(crate) fn throughput(file: &Path, series: &[Series]) -> Result<()> {
    let title = "Lock + unlock pairs with distinct keys";
    let axes = ["threads (or tasks, or connections)", "pairs a second"];
    let x = (0.9..300.0).log_scale().base(2.0);
    draw(file, title, axes, x, highest(series) * 1.15, series)
}

pub(crate) fn held(file: &Path, series: &[Series]) -> Result<()> {
    let title = "A pair while other locks are held";
    let (axes, top) = (["locks held", "µs"], highest(series) * 1.1);
    draw(file, title, axes, 0.0..10_500.0, top, series)
}

pub(crate) fn hand_over(file: &Path, series: &[Series]) -> Result<()> {
    let title = "From release to the next holder";
    let axes = ["µs", "% of hand-overs within"];
    let x = (1.0..100_000.0).log_scale();
    draw(file, title, axes, x, 100.0, series)
}

fn highest(series: &[Series]) -> f64 {
    let points = series.iter().flat_map(|series| &series.points);
    points.map(|point| point.1).fold(0.0, f64::max)
}

fn draw<X>(
    file: &Path,
    title: &str,
    [x_title, y_title]: [&str; 2],
    x: X,
    top: f64,
    series: &[Series],
) -> Result<()>
where
    X: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
{
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .margin_right(36)
        .x_label_area_size(42)
        .y_label_area_size(70)
        .build_cartesian_2d(x, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc(x_title)
        .y_desc(y_title)
        .x_label_formatter(&|x| grouped(*x))
        .y_label_formatter(&|y| grouped(*y))
        .light_line_style(TRANSPARENT)
        .draw()?;
    for (series, colour) in series.iter().zip(COLOURS.into_iter().cycle()) {
        let points = || series.points.iter().copied();
        if series.points.len() > 1 {
            chart.draw_series(LineSeries::new(points(), colour.stroke_width(2)))?;
        }
        let (marks, size) = match series.points.len() {
            1 => (1, 6),
            ..=MARKED => (MARKED, 3),
            _ => (0, 0),
        };
        let marks = points().take(marks);
        chart
            .draw_series(marks.map(|point| Circle::new(point, size, colour.filled())))?
            .label(&series.name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
    }
    // Where there is room: distributions end at the top right.
    let distributions = series.iter().all(|series| series.points.len() > MARKED);
    let position = match distributions {
        true => SeriesLabelPosition::LowerRight,
        false => SeriesLabelPosition::UpperLeft,
    };
    chart
        .configure_series_labels()
        .position(position)
        .label_font(("sans-serif", 13))
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    root.present()?;
    Ok(())
}
