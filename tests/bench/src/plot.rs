//! The ratios as a picture.

use crate::error::Error;
use crate::report::Comparison;
use crate::run::Results;
use plotters::prelude::*;
use std::path::Path;

/// Writes an SVG: for each operation how many times better or worse the virtual GPU is, on a logarithmic axis.
///
/// # Errors
/// The file cannot be written.
pub fn draw(results: &Results, file: &Path) -> Result<(), Error> {
    draw_all(results, file).map_err(|error| Error::Plot(error.to_string()))
}

fn draw_all(results: &Results, file: &Path) -> Result<(), Box<dyn std::error::Error>> {
    const LINE: u32 = 22;
    const LEFT: i32 = 330;
    let list: Vec<Comparison> = results.iter().map(|(o, values)| Comparison::of(o, values)).collect();
    let list: Vec<(&str, f64, Option<bool>)> =
        list.iter().filter_map(|c| Some((c.operation.name.as_str(), c.ratio()?, c.met()))).collect();
    let size = (1000, LINE * (u32::try_from(list.len())? + 3));
    let root = SVGBackend::new(file, size).into_drawing_area();
    root.fill(&WHITE)?;
    let width = 600.0;
    // From a hundredth to ten times native.
    let place = |ratio: f64| LEFT + (((ratio.clamp(0.01, 10.0).log10() + 2.0) / 3.0) * width) as i32;
    for (mark, label) in [(0.01, "0.01"), (0.1, "0.1"), (1.0, "native"), (10.0, "10")] {
        let bottom = i32::try_from(size.1)? - 20;
        root.draw(&PathElement::new(vec![(place(mark), 20), (place(mark), bottom)], BLACK.mix(0.3)))?;
        root.draw(&Text::new(label, (place(mark) - 10, bottom + 4), ("sans-serif", 12)))?;
    }
    root.draw(&Text::new(
        "virtual / native: times below, rates above 1 are better",
        (LEFT, 2),
        ("sans-serif", 14),
    ))?;
    for (i, (name, ratio, met)) in list.iter().enumerate() {
        let y = i32::try_from(LINE)? * (i32::try_from(i)? + 1) + 4;
        let colour = match met {
            Some(true) => RGBColor(40, 140, 70),
            Some(false) => RGBColor(200, 50, 40),
            None => RGBColor(110, 110, 110),
        };
        root.draw(&Text::new(*name, (4, y), ("sans-serif", 13)))?;
        root.draw(&Rectangle::new([(place(1.0), y), (place(*ratio), y + 14)], colour.filled()))?;
        root.draw(&Text::new(format!("{ratio:.3}"), (LEFT + 610, y), ("sans-serif", 12)))?;
    }
    root.present()?;
    Ok(())
}
