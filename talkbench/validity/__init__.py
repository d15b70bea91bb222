"""Do the scores react to what they should react to?"""
