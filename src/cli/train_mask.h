// `fathom train --show-mask`: what of a text is learned.
#pragma once

#include "cli/train_options.h"

namespace fathom {

/// Shows the first texts and conversations of --text as the model reads them, special tokens too, and where
/// they are cut into sequences. What is learned is green and the rest dim; where standard output is no
/// terminal, or NO_COLOR is set, what is learned stands in [[ and ]].
void show_mask(const TrainVerb& verb);

}  // namespace fathom
