//! The plots, as SVG.

use std::path::Path;

use anyhow::Result;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

const SIZE: (u32, u32) = (760, 440);

/// Told apart also by those who see fewer colours (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(90, 90, 90),
];

/// What is drawn in one colour.
pub(crate) struct Series {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

impl Series {
    pub(crate) fn line(name: &'static str, points: Vec<(f64, f64)>) -> Self {
        Series { name, points }
    }

    pub(crate) fn mark(name: &'static str, point: (f64, f64)) -> Self {
        Series::line(name, vec![point])
    }
}

pub(crate) fn throughput(file: &Path, series: &[Series]) -> Result<()> {
    let top = highest(series) * 1.15;
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(
            "Lock + unlock pairs a second, distinct keys",
            ("sans-serif", 18),
        )
        .margin(12)
        .margin_right(36)
        .x_label_area_size(42)
        .y_label_area_size(70)
        .build_cartesian_2d((0.9..300.0).log_scale().base(2.0), 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("threads (or tasks, or connections)")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| crate::table::grouped(*y))
        .light_line_style(TRANSPARENT)
        .draw()?;
    draw(&mut chart, series, true)?;
    legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
    root.present()?;
    Ok(())
}

pub(crate) fn held(file: &Path, series: &[Series]) -> Result<()> {
    let top = highest(series) * 1.1;
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("A pair while other locks are held", ("sans-serif", 18))
        .margin(12)
        .margin_right(36)
        .x_label_area_size(42)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..10_500.0, 0.0..top)?;
    chart
        .configure_mesh()
        .x_desc("locks held")
        .y_desc("µs")
        .x_label_formatter(&|x| crate::table::grouped(*x))
        .y_label_formatter(&|y| crate::table::grouped(*y))
        .light_line_style(TRANSPARENT)
        .draw()?;
    draw(&mut chart, series, true)?;
    legend(&mut chart, SeriesLabelPosition::UpperLeft)?;
    root.present()?;
    Ok(())
}

pub(crate) fn hand_over(file: &Path, series: &[Series]) -> Result<()> {
    let root = SVGBackend::new(file, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("From release to the next holder", ("sans-serif", 18))
        .margin(12)
        .margin_right(36)
        .x_label_area_size(42)
        .y_label_area_size(56)
        .build_cartesian_2d((1.0..100_000.0).log_scale(), 0.0..100.0)?;
    chart
        .configure_mesh()
        .x_desc("µs")
        .y_desc("% of hand-overs within")
        .x_label_formatter(&|x| crate::table::grouped(*x))
        .light_line_style(TRANSPARENT)
        .draw()?;
    draw(&mut chart, series, false)?;
    legend(&mut chart, SeriesLabelPosition::LowerRight)?;
    root.present()?;
    Ok(())
}

fn highest(series: &[Series]) -> f64 {
    let points = series.iter().flat_map(|series| &series.points);
    points.map(|point| point.1).fold(0.0, f64::max)
}

type Chart<'a, 'b, X> = ChartContext<'a, SVGBackend<'b>, X>;

fn draw<'a, 'b: 'a, X>(
    chart: &mut Chart<'a, 'b, Cartesian2d<X, RangedCoordf64>>,
    series: &[Series],
    dots: bool,
) -> Result<()>
where
    X: Ranged<ValueType = f64>,
{
    for (series, colour) in series.iter().zip(COLOURS.into_iter().cycle()) {
        let points = || series.points.iter().copied();
        if series.points.len() > 1 {
            chart.draw_series(LineSeries::new(points(), colour.stroke_width(2)))?;
        }
        let (marks, size) = match series.points.len() {
            1 => (1, 6),
            _ if dots => (usize::MAX, 3),
            _ => (0, 0),
        };
        let marks = points().take(marks);
        chart
            .draw_series(marks.map(|point| Circle::new(point, size, colour.filled())))?
            .label(series.name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
    }
    Ok(())
}

fn legend<'a, 'b: 'a, X>(
    chart: &mut Chart<'a, 'b, Cartesian2d<X, RangedCoordf64>>,
    position: SeriesLabelPosition,
) -> Result<()>
where
    X: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(position)
        .label_font(("sans-serif", 13))
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .draw()?;
    Ok(())
}
