//! Draws what happened: time runs to the right, each thread has a lane.

use std::fs;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::Plan;
use crate::faults::Fault;
use crate::holds::Hold;

const WIDTH: u32 = 1120;
const HEADER: u32 = 96;
const FOOTER: u32 = 92;
const LEFT: u32 = 92;
const RIGHT: u32 = 24;
/// The height of all lanes together, unless they would be too thick or too thin.
const LANES: u32 = 360;

/// The colours of the first job, the middle one and the last. No red: that is for losses.
const JOBS: [RGBColor; 3] = [
    RGBColor(38, 60, 122),
    RGBColor(38, 150, 158),
    RGBColor(176, 214, 128),
];
const LOST: RGBColor = RGBColor(220, 40, 30);
const FAULT: RGBColor = RGBColor(60, 60, 60);
const GROUND: RGBColor = RGBColor(244, 245, 247);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// From the first event to the last, in nanoseconds.
struct Span {
    start: u128,
    end: u128,
}

impl Span {
    fn new(holds: &[Hold], faults: &[Fault]) -> Span {
        let starts = || {
            let faults = faults.iter().map(|fault| fault.from);
            holds.iter().map(|hold| hold.begin).chain(faults)
        };
        let ends = holds.iter().map(|hold| hold.end);
        let ends = ends.filter(|&end| end != u128::MAX); // of a process that was killed
        let faults = faults.iter().map(|fault| fault.to);
        let start = starts().min().unwrap_or(0);
        let end = ends.chain(faults).chain(starts()).max().unwrap_or(start);
        Span { start, end }
    }

    /// In seconds since the start.
    fn seconds(&self, time: u128) -> f64 {
        let time = time.clamp(self.start, self.end) - self.start;
        time as f64 / 1e9
    }
}

pub(crate) fn draw(
    file: &Path,
    plan: &Plan,
    holds: &[Hold],
    faults: &[Fault],
) -> anyhow::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let lanes = u32::from(plan.processes) * u32::from(plan.threads);
    let height = lanes * (LANES / lanes).clamp(3, 24);
    let root = SVGBackend::new(file, (WIDTH, HEADER + height + FOOTER)).into_drawing_area();
    root.fill(&WHITE)?;
    let span = Span::new(holds, faults);
    let mut chart = ChartBuilder::on(&root)
        .margin_top(HEADER)
        .margin_right(RIGHT)
        .margin_bottom(FOOTER - 44)
        .x_label_area_size(44)
        .y_label_area_size(LEFT)
        .build_cartesian_2d(
            0.0..(span.seconds(span.end) * 1.01).max(1e-3),
            f64::from(lanes)..0.0,
        )?;
    grounds(&mut chart, plan)?;
    chart
        .configure_mesh()
        .disable_y_mesh()
        .disable_y_axis()
        .y_labels(0)
        .x_labels(12)
        .x_desc("seconds since the first lock")
        .x_label_formatter(&|seconds| format!("{seconds:.2}"))
        .label_style(("sans-serif", 13))
        .light_line_style(TRANSPARENT)
        .bold_line_style(BLACK.mix(0.08))
        .draw()?;
    for fault in faults {
        band(&mut chart, &span, fault, lanes)?;
    }
    for hold in holds {
        bar(&mut chart, &span, plan, hold, faults)?;
    }
    label_faults(&root, &chart, &span, faults, height)?;
    label_processes(&root, &chart, plan)?;
    title(&root, plan)?;
    legend(&root, HEADER + height + FOOTER - 30)?;
    root.present()?;
    Ok(())
}

/// A background behind every second process, to tell the processes apart.
fn grounds(chart: &mut Chart<'_, '_>, plan: &Plan) -> anyhow::Result<()> {
    let x = chart.x_range();
    let grounds = (0..plan.processes).step_by(2).map(|process| {
        let top = f64::from(process) * f64::from(plan.threads);
        let bottom = top + f64::from(plan.threads);
        Rectangle::new([(x.start, top), (x.end, bottom)], GROUND.filled())
    });
    chart.draw_series(grounds)?;
    Ok(())
}

/// The time during which the fault happened: of a restart, while the server was down.
fn band(chart: &mut Chart<'_, '_>, span: &Span, fault: &Fault, lanes: u32) -> anyhow::Result<()> {
    let corners = [
        (span.seconds(fault.from), 0.0),
        (span.seconds(fault.to), f64::from(lanes)),
    ];
    chart.draw_series([Rectangle::new(corners, FAULT.mix(0.1).filled())])?;
    Ok(())
}

fn bar(
    chart: &mut Chart<'_, '_>,
    span: &Span,
    plan: &Plan,
    hold: &Hold,
    faults: &[Fault],
) -> anyhow::Result<()> {
    let lane = f64::from(hold.process) * f64::from(plan.threads) + f64::from(hold.owner.thread);
    let fault = hold.fault(faults);
    // A killed process leaves no last record.
    let end = match (hold.last, fault) {
        (None, Some(fault)) => fault.to,
        _ => hold.end,
    };
    let (left, right) = (span.seconds(hold.begin), span.seconds(end));
    // At least one pixel, so that a hold of microseconds is visible.
    let right = right.max(left + chart.x_range().end / f64::from(WIDTH));
    let colour = match fault {
        Some(_) => LOST,
        None if hold.last == Some(crate::journal::Event::Lost) => LOST,
        None => colour(f64::from(hold.owner.job) / f64::from(plan.jobs.max(2) - 1)),
    };
    let corners = [(left, lane + 0.14), (right, lane + 0.86)];
    chart.draw_series([Rectangle::new(corners, colour.filled())])?;
    Ok(())
}

/// The colour of a job, from 0, the first, to 1, the last.
fn colour(job: f64) -> RGBColor {
    let (from, to, share) = if job < 0.5 {
        (JOBS[0], JOBS[1], job * 2.0)
    } else {
        (JOBS[1], JOBS[2], job * 2.0 - 1.0)
    };
    let mix = |from: u8, to: u8| {
        let value = f64::from(from) + (f64::from(to) - f64::from(from)) * share;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between two colours"
        )]
        let value = value.round() as u8;
        value
    };
    RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2))
}

/// A line down all lanes and its label above them, right of the line and each in one of three
/// rows: faults may follow each other closely, and the line of a later one begins below the
/// label of an earlier one.
fn label_faults(
    root: &Area<'_>,
    chart: &Chart<'_, '_>,
    span: &Span,
    faults: &[Fault],
    height: u32,
) -> anyhow::Result<()> {
    let bottom = i32::try_from(HEADER + height)?;
    for (fault, row) in faults.iter().zip([0, 1, 2].into_iter().cycle()) {
        let (x, _) = chart.backend_coord(&(span.seconds(fault.from), 0.0));
        let y = 52 + row * 15;
        root.draw(&PathElement::new(
            [(x, y - 6), (x, bottom)],
            FAULT.stroke_width(1),
        ))?;
        let label = fault.blow.to_string();
        // A letter is about half as wide as it is high.
        let end = x + 5 + i32::try_from(label.len())? * 7;
        let (at, side) = if end < i32::try_from(WIDTH)? {
            (x + 5, HPos::Left)
        } else {
            (x - 5, HPos::Right)
        };
        text(root, &label, (at, y), 13, side)?;
    }
    Ok(())
}

fn label_processes(root: &Area<'_>, chart: &Chart<'_, '_>, plan: &Plan) -> anyhow::Result<()> {
    let threads = f64::from(plan.threads);
    let mut free = 0; // from here on there is room for a label
    for process in 0..plan.processes {
        let middle = (f64::from(process) + 0.5) * threads;
        let (x, y) = chart.backend_coord(&(0.0, middle));
        if y >= free {
            let name = format!("process {process}");
            text(root, &name, (x - 10, y), 13, HPos::Right)?;
            free = y + 14;
        }
    }
    Ok(())
}

fn title(root: &Area<'_>, plan: &Plan) -> anyhow::Result<()> {
    let title = format!(
        "{} jobs shared by lock: {} processes with {} threads each, a lane for each thread",
        plan.jobs, plan.processes, plan.threads
    );
    let middle = i32::try_from(WIDTH / 2)?;
    text(root, &title, (middle, 22), 18, HPos::Center)
}

fn legend(root: &Area<'_>, y: u32) -> anyhow::Result<()> {
    const STEPS: i32 = 40;
    let y = i32::try_from(y)?;
    let left = i32::try_from(LEFT)?;
    text(
        root,
        "a job's lock is held: first job",
        (left, y),
        13,
        HPos::Left,
    )?;
    let scale = left + 186;
    for step in 0..STEPS {
        let colour = colour(f64::from(step) / f64::from(STEPS - 1));
        swatch(root, (scale + step * 3, y), 3, colour)?;
    }
    text(root, "last job", (scale + STEPS * 3 + 8, y), 13, HPos::Left)?;
    let lost = scale + STEPS * 3 + 110;
    swatch(root, (lost, y), 24, LOST)?;
    text(root, "the lock was lost", (lost + 32, y), 13, HPos::Left)?;
    let fault = lost + 190;
    root.draw(&PathElement::new(
        [(fault, y - 9), (fault, y + 9)],
        FAULT.stroke_width(1),
    ))?;
    text(
        root,
        "a fault (grey: for as long as it took)",
        (fault + 8, y),
        13,
        HPos::Left,
    )
}

fn swatch(root: &Area<'_>, (x, y): (i32, i32), width: i32, colour: RGBColor) -> anyhow::Result<()> {
    let corners = [(x, y - 6), (x + width, y + 6)];
    root.draw(&Rectangle::new(corners, colour.filled()))?;
    Ok(())
}

/// `at` is the vertical centre of the text.
fn text(root: &Area<'_>, text: &str, at: (i32, i32), size: i32, side: HPos) -> anyhow::Result<()> {
    let style = ("sans-serif", size).into_text_style(root);
    let style = style.pos(Pos::new(side, VPos::Center));
    root.draw(&Text::new(text.to_owned(), at, style))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Blow;
    use crate::journal::{Event, Owner};

    #[test]
    fn a_lost_hold_has_its_colour_and_a_fault_its_label() {
        let hold = |session, begin, last| Hold {
            process: 1,
            owner: Owner {
                job: 0,
                thread: 0,
                session,
            },
            begin,
            end: begin + 20,
            last,
        };
        let fault = Fault {
            blow: Blow::Terminated(1),
            from: 110,
            to: 112,
        };
        let plan = Plan {
            processes: 2,
            threads: 1,
            jobs: 4,
            seed: 1,
            lawless: false,
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("new").join("picture.svg");
        let drawn = |holds: &[Hold]| {
            draw(&file, &plan, holds, &[fault]).unwrap();
            fs::read_to_string(&file).unwrap()
        };
        let red = |svg: &str| svg.matches("#DC281E").count();
        let kept = drawn(&[hold(1, 130, Some(Event::Done))]);
        assert!(kept.contains("session of process 1 terminated"), "{kept}");
        assert_eq!(red(&kept), 1); // in the legend
        let lost = drawn(&[hold(0, 100, Some(Event::Lost)), hold(0, 100, None)]);
        assert_eq!(red(&lost), 3);
    }
}
