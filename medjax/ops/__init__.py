"""Array maths on ONE example: convolution, displacement fields, warping, blur, random fields."""
