"""Files in, clean messages out: prototxt, weights, means, solver states; errors that name the place."""
