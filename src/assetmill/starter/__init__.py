"""Small real models in the field's standard formats, trained by this project on pictures it draws itself."""
