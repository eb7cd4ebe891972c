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

/// The same of an operation with several results, of which some may be inputs that it passes on. The gradient
/// of a result that nothing was computed from is undefined.
using WayBackOfAll = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& gradients)>;
std::vector<at::Tensor> with_way_back(const std::vector<at::Tensor>& ys,
                                      const std::vector<at::Tensor>& inputs, WayBackOfAll way_back);

}  // namespace fathom
