//! DTD's layout: `images/CLASS/FILE` and the lists `labels/{train1,val1,test1}.txt` of split 1.
//!
//! The study trains on train1 and val1 together and tests on test1. Images that no list names are not used.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use crate::DatasetError;
use crate::error::listing;
use crate::files::{Files, Found};

const LISTS: [&str; 3] = ["train1.txt", "val1.txt", "test1.txt"];

/// Opens `data_dir/name`; `help` says how to get it.
pub(crate) fn open(name: &str, data_dir: &Path, help: &str) -> Result<Files, DatasetError> {
    let root = data_dir.join(name);
    if !root.is_dir() {
        return Err(DatasetError::missing(name, &[root], data_dir, help));
    }
    for folder in ["images", "labels"] {
        if !root.join(folder).is_dir() {
            return Err(DatasetError::layout(
                &root,
                format!("has no folder {folder}/; expected images/ and labels/. {}. {help}", listing(&root)),
            ));
        }
    }
    let images = root.join("images");
    let mut halves = [Vec::new(), Vec::new()];
    // Where each image was listed first.
    let mut seen: HashMap<(String, String), (&str, usize)> = HashMap::new();
    for list in LISTS {
        let file = root.join("labels").join(list);
        let text = std::fs::read_to_string(&file).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => DatasetError::layout(
                &file,
                format!("is not there; expected {}. {}. {help}", LISTS.join(", "), listing(&root.join("labels"))),
            ),
            _ => DatasetError::io(&file, "read it as text")(error),
        })?;
        let half = &mut halves[usize::from(list == "test1.txt")];
        for (number, line) in text.lines().enumerate() {
            let (number, line) = (number + 1, line.trim());
            if line.is_empty() {
                continue;
            }
            let image = parse(line).map_err(|message| DatasetError::line(&file, number, message))?;
            let path = images.join(&image.0).join(&image.1);
            if !path.is_file() {
                return Err(DatasetError::line(
                    &file,
                    number,
                    format!("lists {line}, but there is no file {}. Unpack the data set again", path.display()),
                ));
            }
            if let Some((list, line)) = seen.insert(image.clone(), (list, number)) {
                return Err(DatasetError::line(
                    &file,
                    number,
                    format!(
                        "lists {}/{}, which {list}:{line} lists already; expected every image once over {}",
                        image.0,
                        image.1,
                        LISTS.join(", ")
                    ),
                ));
            }
            half.push(image);
        }
    }
    let [train, test] = halves;
    for (images, lists) in [(&train, "train1.txt and val1.txt list"), (&test, "test1.txt lists")] {
        if images.is_empty() {
            return Err(DatasetError::layout(
                &root.join("labels"),
                format!("{lists} no image; expected lines such as banded/banded_0002.jpg. {help}"),
            ));
        }
    }
    let half = |list| Found { folder: images.clone(), images: list };
    let lists = LISTS.map(|list| root.join("labels").join(list)).to_vec();
    Ok(Files::new(&root, name, half(train), half(test))?.listed_in(lists))
}

/// `CLASS/FILE`, neither of which may lead out of `images/`.
fn parse(line: &str) -> Result<(String, String), String> {
    const EXPECTED: &str = "expected CLASS/FILE, such as banded/banded_0002.jpg";
    let refuse = |what: &str| Err(format!("\"{line}\" {what}; {EXPECTED}"));
    if line.starts_with('/') {
        return refuse("is an absolute path, which a list may not hold");
    }
    let parts: Vec<&str> = line.split('/').collect();
    if parts.contains(&"..") {
        return refuse("leads out of its folder with \"..\", which a list may not do");
    }
    match parts[..] {
        [_] => refuse("names no class: it has no '/'"),
        [class, file] if ![class, file].iter().any(|p| p.is_empty() || *p == "." || p.contains('\0')) => {
            Ok((class.to_owned(), file.to_owned()))
        }
        _ => refuse("is not a class and a file"),
    }
}
