package api

// Marshal is how answers are encoded.
var Marshal = marshal
