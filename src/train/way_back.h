// How an operation tells autograd its way back: one torch::autograd::Function whose backward is a closure,
// which keeps what it needs by capturing it.
#pragma once

#include <ATen/ATen.h>

#include <functional>
#include <vector>

namespace fathom {

/// From the gradient of an operation's result to those of its inputs, in their order; the last ones may be
/// left out where they have none.
using WayBack = std::function<std::vector<at::Tensor>(const at::Tensor& gradient)>;

/// `y`, which was computed from `inputs` (without autograd's knowledge), made known to autograd. The closure
/// must not hold y itself.
at::Tensor with_way_back(const at::Tensor& y, const std::vector<at::Tensor>& inputs, WayBack way_back);

}  // namespace fathom
