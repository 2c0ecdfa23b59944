"""Tables on disk: reading what people upload, making the template, writing results."""
